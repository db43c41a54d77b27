/* The few byte loops that are too hot for Python.

   Every function here has a plain-Python twin beside its caller and is held to the same tests;
   the package works without this file. PITR_PURE=1 in the environment ignores it. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

/* Below this, letting go of the interpreter lock costs more than it gives. */
#define RELEASE_BYTES 65536

static uint32_t big_word(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint32_t little_word(const uint8_t *p) {
    return (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0];
}

/* SQLite's WAL checksum (docs/formats/sqlite-wal.md). size is a multiple of 8. */
static void add_checksum(const uint8_t *p, Py_ssize_t size, int big, uint32_t *s0, uint32_t *s1) {
    uint32_t a = *s0, b = *s1;
    const uint8_t *end = p + size;
    if (big) {
        for (; p < end; p += 8) {
            a += big_word(p) + b;
            b += big_word(p + 4) + a;
        }
    } else {
        for (; p < end; p += 8) {
            a += little_word(p) + b;
            b += little_word(p + 4) + a;
        }
    }
    *s0 = a;
    *s1 = b;
}

PyDoc_STRVAR(wal_checksum_doc,
"wal_checksum(data, s0, s1, big_endian) -> (s0, s1)\n\n"
"Continue a WAL checksum over data, whose length must be a multiple of 8.");

static PyObject *wal_checksum(PyObject *module, PyObject *args) {
    Py_buffer data;
    unsigned int s0, s1;
    int big;
    if (!PyArg_ParseTuple(args, "y*IIp", &data, &s0, &s1, &big)) {
        return NULL;
    }
    if (data.len % 8 != 0) {
        PyBuffer_Release(&data);
        PyErr_SetString(PyExc_ValueError, "the length is not a multiple of 8");
        return NULL;
    }
    uint32_t a = s0, b = s1;
    add_checksum(data.buf, data.len, big, &a, &b);
    PyBuffer_Release(&data);
    return Py_BuildValue("II", (unsigned int)a, (unsigned int)b);
}

static Py_ssize_t count_valid(
    const uint8_t *p, Py_ssize_t count, Py_ssize_t page_size, uint32_t salt1, uint32_t salt2,
    int big, uint32_t *s0, uint32_t *s1
) {
    for (Py_ssize_t n = 0; n < count; n++, p += 24 + page_size) {
        uint32_t a = *s0, b = *s1;
        if (big_word(p + 8) != salt1 || big_word(p + 12) != salt2) {
            return n;
        }
        add_checksum(p, 8, big, &a, &b);
        add_checksum(p + 24, page_size, big, &a, &b);
        if (big_word(p + 16) != a || big_word(p + 20) != b) {
            return n;
        }
        *s0 = a;
        *s1 = b;
    }
    return count;
}

PyDoc_STRVAR(verify_frames_doc,
"verify_frames(buffer, page_size, salt1, salt2, s0, s1, big_endian) -> (count, s0, s1)\n\n"
"Return how many whole frames at the start of buffer carry the salts and continue the checksum\n"
"chain (s0, s1), and the checksum of the last of them.");

static PyObject *verify_frames(PyObject *module, PyObject *args) {
    Py_buffer buffer;
    Py_ssize_t page_size, count;
    unsigned int salt1, salt2, s0, s1;
    int big;
    if (!PyArg_ParseTuple(
            args, "y*nIIIIp", &buffer, &page_size, &salt1, &salt2, &s0, &s1, &big)) {
        return NULL;
    }
    if (page_size < 512 || page_size > 65536 || page_size % 8 != 0) {
        PyBuffer_Release(&buffer);
        PyErr_SetString(PyExc_ValueError, "not a page size");
        return NULL;
    }
    uint32_t a = s0, b = s1;
    count = buffer.len / (24 + page_size);
    PyThreadState *state = buffer.len >= RELEASE_BYTES ? PyEval_SaveThread() : NULL;
    count = count_valid(buffer.buf, count, page_size, salt1, salt2, big, &a, &b);
    if (state != NULL) {
        PyEval_RestoreThread(state);
    }
    PyBuffer_Release(&buffer);
    return Py_BuildValue("nII", count, (unsigned int)a, (unsigned int)b);
}

static PyMethodDef methods[] = {
    {"wal_checksum", wal_checksum, METH_VARARGS, wal_checksum_doc},
    {"verify_frames", verify_frames, METH_VARARGS, verify_frames_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_speedups", "Hot byte loops in C; see the Python twins.", 0, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__speedups(void) {
    return PyModule_Create(&definition);
}
