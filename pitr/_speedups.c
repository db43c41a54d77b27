/* The few byte loops that are too hot for Python.

   Every function here has a plain-Python twin beside its caller and is held to the same tests;
   the package works without this file. PITR_PURE=1 in the environment ignores it. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

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

/* ---- PostgreSQL's WAL: docs/formats/postgres-wal.md, twin of pitr/postgres/wal/scan_reference.py.

   The bytes are hostile: every length is compared with what is left before it is used, and memory
   grows with the bytes that are there, never with a length that a record claims. */

#define WAL_PAGE 8192u
#define RECORD_HEADER 24u
#define RECORD_MAX 0x3fffffffu

enum {
    NO_MEMORY = -2, GO_ON = -1, CLEAN, TORN, STOPPED, UNWRITTEN, BAD_MAGIC, BAD_PAGE_FLAGS,
    FOREIGN_SYSTEM, WRONG_SEGMENT_SIZE, WRONG_ADDRESS, WRONG_TIMELINE, NO_CONTRECORD,
    BAD_CONTRECORD, BAD_LENGTH, BAD_RMGR, PREV_MISMATCH, CRC_MISMATCH, MALFORMED
};
enum { RM_XLOG = 0, RM_XACT, RM_SMGR, RM_DBASE = 4, RM_TBLSPC, RM_RELMAP = 7, RM_HEAP2 = 9, RM_HEAP };
enum { NO_CHANGE, INSERT, UPDATE, DELETE, MOVE };

static uint16_t little_half(const uint8_t *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint64_t little_long(const uint8_t *p) {
    return (uint64_t)little_word(p + 4) << 32 | little_word(p);
}

/* Bytes that one of three interleaved checksums covers: the instruction takes three cycles, and
   another one can begin in each. */
#define CRC_STRIPE 256

static uint32_t crc_table[8][256];
/* What CRC_STRIPE zero bytes make of a checksum, by each byte of it. */
static uint32_t crc_shift[4][256];

static void make_crc_table(void) {
    for (uint32_t n = 0; n < 256; n++) {
        uint32_t crc = n;
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
        }
        crc_table[0][n] = crc;
    }
    for (int slice = 1; slice < 8; slice++) {
        for (int n = 0; n < 256; n++) {
            uint32_t before = crc_table[slice - 1][n];
            crc_table[slice][n] = before >> 8 ^ crc_table[0][before & 0xff];
        }
    }
}

static uint32_t crc_portable(uint32_t crc, const uint8_t *p, size_t size) {
    for (; size >= 8; size -= 8, p += 8) {
        uint32_t low = little_word(p) ^ crc, high = little_word(p + 4);
        crc = crc_table[7][low & 0xff] ^ crc_table[6][low >> 8 & 0xff]
            ^ crc_table[5][low >> 16 & 0xff] ^ crc_table[4][low >> 24]
            ^ crc_table[3][high & 0xff] ^ crc_table[2][high >> 8 & 0xff]
            ^ crc_table[1][high >> 16 & 0xff] ^ crc_table[0][high >> 24];
    }
    while (size--) {
        crc = crc >> 8 ^ crc_table[0][(crc ^ *p++) & 0xff];
    }
    return crc;
}

#if defined(__x86_64__) && defined(__GNUC__)
/* The checksum is linear: a table is made of what becomes of its 32 bits. */
static void make_crc_shift(void) {
    static const uint8_t zeros[CRC_STRIPE];
    for (uint32_t byte = 0; byte < 4; byte++) {
        for (uint32_t n = 1; n < 256; n++) {
            uint32_t rest = n & (n - 1);
            crc_shift[byte][n] = rest
                ? crc_shift[byte][rest] ^ crc_shift[byte][n ^ rest]
                : crc_portable(n << 8 * byte, zeros, CRC_STRIPE);
        }
    }
}

static uint32_t shifted(uint32_t crc) {
    return crc_shift[0][crc & 0xff] ^ crc_shift[1][crc >> 8 & 0xff]
        ^ crc_shift[2][crc >> 16 & 0xff] ^ crc_shift[3][crc >> 24];
}

__attribute__((target("sse4.2")))
static uint32_t crc_sse42(uint32_t crc, const uint8_t *p, size_t size) {
    for (; size >= 3 * CRC_STRIPE; size -= 3 * CRC_STRIPE, p += 3 * CRC_STRIPE) {
        uint64_t a = crc, b = 0, c = 0;
        for (size_t at = 0; at < CRC_STRIPE; at += 8) {
            a = __builtin_ia32_crc32di(a, little_long(p + at));
            b = __builtin_ia32_crc32di(b, little_long(p + CRC_STRIPE + at));
            c = __builtin_ia32_crc32di(c, little_long(p + 2 * CRC_STRIPE + at));
        }
        crc = shifted(shifted((uint32_t)a) ^ (uint32_t)b) ^ (uint32_t)c;
    }
    uint64_t wide = crc;
    for (; size >= 8; size -= 8, p += 8) {
        wide = __builtin_ia32_crc32di(wide, little_long(p));
    }
    crc = (uint32_t)wide;
    while (size--) {
        crc = __builtin_ia32_crc32qi(crc, *p++);
    }
    return crc;
}
#endif

static uint32_t (*crc_update)(uint32_t, const uint8_t *, size_t) = crc_portable;

static void choose_crc(void) {
    make_crc_table();
#if defined(__x86_64__) && defined(__GNUC__)
    if (__builtin_cpu_supports("sse4.2")) {
        make_crc_shift();
        crc_update = crc_sse42;
    }
#endif
}

/* Columns of one table: `count` rows, in memory for `room`. They are the bytes objects that are
   returned, so that nothing is copied at the end. */
typedef struct {
    PyObject *object[8];
    uint8_t *column[8];
    const uint8_t *widths;
    size_t columns, count, room;
} Table;

static const uint8_t record_widths[] = {8, 4, 4, 1, 1, 1, 2};
static const uint8_t block_widths[] = {4, 4, 4, 4, 4, 1, 1, 1};
static const uint8_t kept_widths[] = {4, 8};

typedef struct {
    const uint8_t *data;
    uint64_t lsn, end, at, prev, begin, segment, system, stop;
    uint32_t timeline, magic, apply, compressed;
    int custom, toplevel;
    uint8_t *carry, *kept;
    size_t carried, carry_room, kept_size, kept_room;
    Table records, blocks, keeps;
    PyThreadState *released;
} WalScan;

/* Give a table memory for so many rows; needs the interpreter lock. */
static int resize(Table *t, size_t room) {
    for (size_t n = 0; n < t->columns; n++) {
        Py_ssize_t size = (Py_ssize_t)(room * t->widths[n]);
        if (t->object[n] == NULL) {
            t->object[n] = PyBytes_FromStringAndSize(NULL, size);
        } else if (PyBytes_GET_SIZE(t->object[n]) != size) {
            _PyBytes_Resize(&t->object[n], size);
        }
        if (t->object[n] == NULL) {
            PyErr_Clear();
            return 0;
        }
        t->column[n] = (uint8_t *)PyBytes_AS_STRING(t->object[n]);
    }
    t->room = room;
    return 1;
}

static int has_room(WalScan *s, Table *t) {
    if (t->count < t->room) {
        return 1;
    }
    if (s->released != NULL) {
        PyEval_RestoreThread(s->released);
    }
    int is_done = resize(t, t->room ? t->room * 2 : 256);
    if (s->released != NULL) {
        s->released = PyEval_SaveThread();
    }
    return is_done;
}

static int append(uint8_t **to, size_t *size, size_t *room, const uint8_t *from, size_t more) {
    if (more == 0) {
        return 1;
    }
    if (*size + more > *room) {
        size_t wanted = (*size + more) * 2;
        uint8_t *grown = PyMem_RawRealloc(*to, wanted);
        if (grown == NULL) {
            return 0;
        }
        *to = grown;
        *room = wanted;
    }
    memcpy(*to + *size, from, more);
    *size += more;
    return 1;
}

#define CELL(table, number, type) ((type *)(table).column[number])[(table).count]

static int header_fault(const WalScan *s, const uint8_t *r, uint64_t begin) {
    uint8_t rmgr = r[17];
    uint64_t prev = little_long(r + 8);
    if (rmgr > 21 && !(s->custom && rmgr >= 128)) {
        return BAD_RMGR;
    }
    if (s->prev ? prev != s->prev : prev >= begin) {
        return PREV_MISMATCH;
    }
    return GO_ON;
}

/* The header of a page image at r[at], of which `left` bytes are there: its length, or 0. */
static size_t image_header(const WalScan *s, const uint8_t *r, size_t left, uint32_t *content,
                           uint8_t *flags) {
    if (left < 5) {
        return 0;
    }
    uint32_t size = little_half(r), hole = little_half(r + 2), info = r[4];
    int has_hole = info & 1, compressed = (info & s->compressed) != 0;
    if (left < (has_hole && compressed ? 7u : 5u) || size > WAL_PAGE) {
        return 0;
    }
    uint32_t hole_size = compressed ? (has_hole ? little_half(r + 5) : 0) : WAL_PAGE - size;
    if (has_hole ? hole == 0 || hole_size == 0 || size == WAL_PAGE
                 : hole || hole_size || (size == WAL_PAGE) == compressed) {
        return 0;
    }
    *content += size;
    *flags = (uint8_t)(*flags | (info & s->apply ? 0x80 : 0));
    return has_hole && compressed ? 7 : 5;
}

/* Add the block reference at r, of which `left` bytes are there: the length of its header, 0 when
   it is malformed. `relation` is that of the reference before, or NULL. */
static size_t block_reference(WalScan *s, const uint8_t *r, size_t left, const uint8_t **relation,
                              uint32_t *content) {
    uint8_t flags = r[1] & 0x70;
    uint32_t own = little_half(r + 2);
    size_t at = 4;
    if ((own > 0) != ((flags & 0x20) > 0)) {
        return 0;
    }
    *content += own;
    if (flags & 0x10) {
        size_t size = image_header(s, r + at, left - at, content, &flags);
        if (size == 0) {
            return 0;
        }
        at += size;
    }
    if (left - at < (r[1] & 0x80 ? 4u : 16u) || (r[1] & 0x80 && *relation == NULL)) {
        return 0;
    }
    if (!(r[1] & 0x80)) {
        *relation = r + at;
        at += 12;
    }
    CELL(s->blocks, 0, uint32_t) = (uint32_t)s->records.count;
    CELL(s->blocks, 1, uint32_t) = little_word(*relation);
    CELL(s->blocks, 2, uint32_t) = little_word(*relation + 4);
    CELL(s->blocks, 3, uint32_t) = little_word(*relation + 8);
    CELL(s->blocks, 4, uint32_t) = little_word(r + at);
    CELL(s->blocks, 5, uint8_t) = r[1] & 0x0f;
    CELL(s->blocks, 6, uint8_t) = r[0];
    CELL(s->blocks, 7, uint8_t) = flags;
    s->blocks.count++;
    return at + 4;
}

/* Add the block references of a record and find its main data. */
static int block_references(WalScan *s, const uint8_t *r, uint32_t total, uint32_t *main_at) {
    size_t at = RECORD_HEADER;
    /* The sum of the contents: at most 33 blocks of 2 * 65535 bytes before the main data. */
    uint32_t content = 0, main_size = 0;
    int id_before = -1;
    const uint8_t *relation = NULL;
    while (total - at > content) {
        size_t left = total - at, size;
        uint8_t id = r[at];
        if (id == 255 && left >= 2) {
            main_size = r[at + 1];
            at += 2;
            break;
        }
        if (id == 254 && left >= 5) {
            main_size = little_word(r + at + 1);
            at += 5;
            break;
        }
        if (id > 32) {
            size = id == 253 ? 3 : id == 252 && s->toplevel ? 5 : 0;
            if (size == 0 || left < size) {
                return MALFORMED;
            }
            at += size;
            continue;
        }
        if (left < 4 || id <= id_before) {
            return MALFORMED;
        }
        if (!has_room(s, &s->blocks)) {
            return NO_MEMORY;
        }
        size = block_reference(s, r + at, left, &relation, &content);
        if (size == 0) {
            return MALFORMED;
        }
        id_before = id;
        at += size;
    }
    if (total - at != (uint64_t)content + main_size) {
        return MALFORMED;
    }
    *main_at = total - main_size;
    return GO_ON;
}

/* What a heap record does to rows: its kind, or -1 when its main data are cut short. */
static int row_change(uint8_t rmgr, uint8_t opcode, const uint8_t *p, size_t size, uint16_t *rows) {
    *rows = 0;
    if (rmgr == RM_HEAP2) {
        if (opcode != 0x50) {
            return NO_CHANGE;
        }
        *rows = size >= 4 ? little_half(p + 2) : 0;
        return size >= 4 ? INSERT : -1;
    }
    if (opcode == 0x00 || opcode == 0x10) {
        if (size < (opcode ? 8u : 3u)) {
            return -1;
        }
        if (opcode ? p[7] & 0x08 : p[2] & 0x04) {
            return NO_CHANGE;
        }
        *rows = 1;
        return opcode == 0 ? INSERT : p[7] & 0x10 ? MOVE : DELETE;
    }
    *rows = opcode == 0x20 || opcode == 0x40 || opcode == 0x50;
    return *rows ? (opcode == 0x50 ? INSERT : UPDATE) : NO_CHANGE;
}

static int is_kept(uint8_t rmgr, uint8_t info) {
    return rmgr == RM_XACT || rmgr == RM_SMGR || rmgr == RM_DBASE || rmgr == RM_TBLSPC
        || rmgr == RM_RELMAP || rmgr == RM_HEAP || (rmgr == RM_XLOG && (info & 0xf0) != 0x20);
}

/* Verify the whole record at r, whose header is checked, and add it. */
static int take_record(WalScan *s, const uint8_t *r, uint64_t begin) {
    uint32_t total = little_word(r), main_at, crc = 0xffffffffu;
    uint8_t info = r[16], rmgr = r[17];
    uint16_t rows = 0;
    int change = NO_CHANGE;
    size_t first = s->blocks.count;
    crc = crc_update(crc, r + RECORD_HEADER, total - RECORD_HEADER);
    if ((crc_update(crc, r, 20) ^ 0xffffffffu) != little_word(r + 20)) {
        return CRC_MISMATCH;
    }
    int found = block_references(s, r, total, &main_at);
    if (found == GO_ON && (rmgr == RM_HEAP || rmgr == RM_HEAP2)) {
        change = row_change(rmgr, info & 0x70, r + main_at, total - main_at, &rows);
        found = change < 0 ? MALFORMED : GO_ON;
    }
    if (found != GO_ON) {
        s->blocks.count = first;
        return found;
    }
    if (!has_room(s, &s->records)) {
        return NO_MEMORY;
    }
    if (first == s->blocks.count && is_kept(rmgr, info)) {
        if (!has_room(s, &s->keeps)
            || !append(&s->kept, &s->kept_size, &s->kept_room, r, total)) {
            return NO_MEMORY;
        }
        CELL(s->keeps, 0, uint32_t) = (uint32_t)s->records.count;
        CELL(s->keeps, 1, uint64_t) = s->kept_size;
        s->keeps.count++;
    }
    CELL(s->records, 0, uint64_t) = begin;
    CELL(s->records, 1, uint32_t) = total;
    CELL(s->records, 2, uint32_t) = little_word(r + 4);
    CELL(s->records, 3, uint8_t) = rmgr;
    CELL(s->records, 4, uint8_t) = info;
    CELL(s->records, 5, uint8_t) = (uint8_t)change;
    CELL(s->records, 6, uint16_t) = rows;
    s->records.count++;
    s->prev = begin;
    return GO_ON;
}

static uint64_t behind(const WalScan *s, const uint8_t *r, uint64_t end) {
    if (r[17] == RM_XLOG && (r[16] & 0xf0) == 0x40) {
        return (end + s->segment - 1) / s->segment * s->segment;
    }
    return (end + 7) & ~(uint64_t)7;
}

static int page_fault(const WalScan *s, const uint8_t *p) {
    uint32_t magic = little_half(p), flags = little_half(p + 2);
    uint64_t address = little_long(p + 8);
    int is_first = s->at % s->segment == 0;
    if (magic != s->magic) {
        return magic || address ? BAD_MAGIC : UNWRITTEN;
    }
    if (flags & ~0x0fu || ((flags & 0x02) != 0) != is_first) {
        return BAD_PAGE_FLAGS;
    }
    if (is_first) {
        if (s->system && little_long(p + 24) != s->system) {
            return FOREIGN_SYSTEM;
        }
        if (little_word(p + 32) != s->segment || little_word(p + 36) != WAL_PAGE) {
            return WRONG_SEGMENT_SIZE;
        }
    }
    if (address != s->at) {
        return WRONG_ADDRESS;
    }
    return little_word(p + 4) < s->timeline ? WRONG_TIMELINE : GO_ON;
}

/* Pass the header of the page at `at`, and what is to be skipped behind it. */
static int enter_page(WalScan *s) {
    const uint8_t *p = s->data + (s->at - s->lsn);
    uint32_t size = s->at % s->segment ? 24 : 40, skipped = 0;
    if (s->end - s->at < size) {
        return TORN;
    }
    int found = page_fault(s, p);
    if (found != GO_ON) {
        return found;
    }
    uint32_t flags = little_half(p + 2), remaining = little_word(p + 16);
    if (s->carried && flags & 0x08) {
        s->carried = 0;
        s->begin = 0;
    }
    if (s->carried) {
        if (!(flags & 0x01)) {
            return NO_CONTRECORD;
        }
        if (remaining == 0 || remaining != little_word(s->carry) - s->carried) {
            return BAD_CONTRECORD;
        }
    } else if (flags & 0x01) {
        if (s->prev) {
            return NO_CONTRECORD;
        }
        uint64_t aligned = ((uint64_t)remaining + 7) & ~(uint64_t)7;
        skipped = aligned < WAL_PAGE - size ? (uint32_t)aligned : WAL_PAGE - size;
    }
    s->timeline = little_word(p + 4);
    s->at += size + skipped;
    return GO_ON;
}

/* Add the bytes up to `limit` to the carried record, and take it when it is whole. */
static int continue_record(WalScan *s, uint64_t limit) {
    size_t missing = little_word(s->carry) - s->carried;
    size_t take = missing < limit - s->at ? missing : (size_t)(limit - s->at);
    if (!append(&s->carry, &s->carried, &s->carry_room, s->data + (s->at - s->lsn), take)) {
        return NO_MEMORY;
    }
    s->at += take;
    if (take < missing) {
        return GO_ON;
    }
    int found = header_fault(s, s->carry, s->begin);
    if (found == GO_ON) {
        found = take_record(s, s->carry, s->begin);
    }
    if (found == GO_ON) {
        s->at = behind(s, s->carry, s->at);
        s->carried = 0;
        s->begin = 0;
    }
    return found;
}

/* Carry the record at `at`, which does not end before `limit`. */
static int begin_carry(WalScan *s, uint64_t limit) {
    const uint8_t *r = s->data + (s->at - s->lsn);
    if (limit - s->at < 8) {
        return TORN;
    }
    uint32_t total = little_word(r);
    if (total < RECORD_HEADER || total > RECORD_MAX) {
        return total ? BAD_LENGTH : UNWRITTEN;
    }
    if (!append(&s->carry, &s->carried, &s->carry_room, r, (size_t)(limit - s->at))) {
        return NO_MEMORY;
    }
    s->begin = s->at;
    s->at = limit;
    return GO_ON;
}

/* Take the records that begin and end before `limit`; carry the one that does not end. */
static int page_of_records(WalScan *s, uint64_t limit) {
    while (s->at < limit) {
        const uint8_t *r = s->data + (s->at - s->lsn);
        if (s->at >= s->stop) {
            return STOPPED;
        }
        uint64_t left = limit - s->at;
        if (left < RECORD_HEADER || little_word(r) < RECORD_HEADER || little_word(r) > left) {
            return begin_carry(s, limit);
        }
        int found = header_fault(s, r, s->at);
        if (found == GO_ON) {
            found = take_record(s, r, s->at);
        }
        if (found != GO_ON) {
            return found;
        }
        s->at = behind(s, r, s->at + little_word(r));
    }
    return GO_ON;
}

static int run_scan(WalScan *s) {
    int found = GO_ON, is_checked = 0;
    while (found == GO_ON) {
        if (s->carried == 0) {
            is_checked = 0;
        } else if (!is_checked && s->carried >= RECORD_HEADER) {
            found = header_fault(s, s->carry, s->begin);
            is_checked = 1;
        }
        if (found != GO_ON) {
            break;
        }
        if (s->at >= s->end) {
            found = s->carried ? TORN : CLEAN;
        } else if (s->at % WAL_PAGE == 0) {
            found = enter_page(s);
        } else {
            uint64_t limit = s->at - s->at % WAL_PAGE + WAL_PAGE;
            limit = limit < s->end ? limit : s->end;
            found = s->carried ? continue_record(s, limit) : page_of_records(s, limit);
        }
    }
    if (found > STOPPED && s->carried) {
        s->at = s->begin;
        s->begin = 0;
        s->carried = 0;
    }
    return found;
}

static PyObject *columns_of(Table *t) {
    PyObject *result = resize(t, t->count) ? PyTuple_New((Py_ssize_t)t->columns) : NULL;
    for (size_t n = 0; result != NULL && n < t->columns; n++) {
        PyTuple_SET_ITEM(result, (Py_ssize_t)n, t->object[n]);
        t->object[n] = NULL;
    }
    return result == NULL && !PyErr_Occurred() ? PyErr_NoMemory() : result;
}

static PyObject *scan_result(WalScan *s, int end) {
    PyObject *keeps = columns_of(&s->keeps);
    if (keeps == NULL) {
        return NULL;
    }
    PyObject *kept = Py_BuildValue(
        "OOy#", PyTuple_GET_ITEM(keeps, 0), PyTuple_GET_ITEM(keeps, 1),
        s->kept_size ? (const char *)s->kept : "", (Py_ssize_t)s->kept_size);
    Py_DECREF(keeps);
    return Py_BuildValue(
        "iKKIKy#NNN", end, (unsigned long long)s->at, (unsigned long long)s->prev,
        (unsigned int)s->timeline, (unsigned long long)s->begin,
        s->carried ? (const char *)s->carry : "", (Py_ssize_t)s->carried,
        columns_of(&s->records), columns_of(&s->blocks), kept);
}

static int is_scan(const WalScan *s, const Py_buffer *carry) {
    if (s->segment < WAL_PAGE || s->segment & (s->segment - 1) || s->segment > 1u << 30
        || s->at < s->lsn || s->at > UINT64_MAX / 2 || s->end > UINT64_MAX / 2) {
        return 0;
    }
    if (carry->len == 0) {
        return 1;
    }
    uint32_t total = carry->len < 8 ? 0 : little_word(carry->buf);
    return total >= RECORD_HEADER && total <= RECORD_MAX && carry->len < (Py_ssize_t)total;
}

PyDoc_STRVAR(scan_wal_doc,
"scan_wal(data, lsn, position, prev, timeline, begin, carry, segment_bytes, magic, image_apply,\n"
"         image_compressed, custom_rmgrs, toplevel_xid, system_identifier, stop)\n\n"
"Scan PostgreSQL's WAL; see pitr/postgres/wal/scan.py.");

static PyObject *scan_wal(PyObject *module, PyObject *args) {
    Py_buffer data, carry;
    unsigned long long lsn, at, prev, begin, segment, system, stop;
    unsigned int timeline, magic, apply, compressed;
    int custom, toplevel, end = NO_MEMORY;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(
            args, "y*KKKIKy*KIIIppKK", &data, &lsn, &at, &prev, &timeline, &begin, &carry, &segment,
            &magic, &apply, &compressed, &custom, &toplevel, &system, &stop)) {
        return NULL;
    }
    WalScan s = {
        .data = data.buf, .lsn = lsn, .end = lsn + (uint64_t)data.len, .at = at, .prev = prev,
        .begin = begin, .segment = segment, .system = system, .stop = stop, .timeline = timeline,
        .magic = magic, .apply = apply, .compressed = compressed, .custom = custom,
        .toplevel = toplevel,
        .records = {.widths = record_widths, .columns = sizeof record_widths},
        .blocks = {.widths = block_widths, .columns = sizeof block_widths},
        .keeps = {.widths = kept_widths, .columns = sizeof kept_widths},
    };
    if (!is_scan(&s, &carry)) {
        PyErr_SetString(PyExc_ValueError, "data and state do not fit together");
        goto done;
    }
    s.released = data.len >= RELEASE_BYTES ? PyEval_SaveThread() : NULL;
    if (append(&s.carry, &s.carried, &s.carry_room, carry.buf, (size_t)carry.len)) {
        end = run_scan(&s);
    }
    if (s.released != NULL) {
        PyEval_RestoreThread(s.released);
    }
    result = end == NO_MEMORY ? PyErr_NoMemory() : scan_result(&s, end);
done:
    PyMem_RawFree(s.carry);
    PyMem_RawFree(s.kept);
    for (size_t n = 0; n < 8; n++) {
        Py_XDECREF(s.records.object[n]);
        Py_XDECREF(s.blocks.object[n]);
        Py_XDECREF(s.keeps.object[n]);
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&carry);
    return result;
}

/* The columns of the index of WAL records (pitr/postgres/index/packing.py): Parquet's
   DELTA_BINARY_PACKED, and rows sorted and taken. Columns are native unsigned integers. */
#define DELTA_BLOCK 128
#define DELTA_MINIBLOCKS 4
#define DELTA_MINIBLOCK (DELTA_BLOCK / DELTA_MINIBLOCKS)

static uint64_t load_value(const uint8_t *p, int width) {
    uint64_t wide;
    uint32_t narrow;
    uint16_t half;
    switch (width) {
    case 8: memcpy(&wide, p, 8); return wide;
    case 4: memcpy(&narrow, p, 4); return narrow;
    case 2: memcpy(&half, p, 2); return half;
    default: return *p;
    }
}

static void store_value(uint8_t *p, int width, uint64_t value) {
    uint32_t narrow = (uint32_t)value;
    if (width == 8) {
        memcpy(p, &value, 8);
    } else {
        memcpy(p, &narrow, 4);
    }
}

static int64_t as_signed(uint64_t value, int width) {
    return width == 4 ? (int64_t)(int32_t)(uint32_t)value : (int64_t)value;
}

static uint8_t *put_varint(uint8_t *p, uint64_t value) {
    while (value > 0x7F) {
        *p++ = (uint8_t)(value & 0x7F) | 0x80;
        value >>= 7;
    }
    *p++ = (uint8_t)value;
    return p;
}

static uint8_t *put_zigzag(uint8_t *p, int64_t value) {
    return put_varint(p, ((uint64_t)value << 1) ^ (uint64_t)(value >> 63));
}

/* Returns NULL where the bytes end or the number is too long. */
static const uint8_t *get_varint(const uint8_t *p, const uint8_t *end, uint64_t *value) {
    *value = 0;
    for (int shift = 0; shift < 70 && p < end; shift += 7) {
        uint8_t byte = *p++;
        *value |= shift < 64 ? (uint64_t)(byte & 0x7F) << shift : 0;
        if (byte < 0x80) {
            return p;
        }
    }
    return NULL;
}

static const uint8_t *get_zigzag(const uint8_t *p, const uint8_t *end, int64_t *value) {
    uint64_t raw;
    p = get_varint(p, end, &raw);
    *value = (int64_t)(raw >> 1) ^ -(int64_t)(raw & 1);
    return p;
}

static int bits_of(uint64_t value) {
#if defined(__GNUC__)
    return value ? 64 - __builtin_clzll(value) : 0;
#else
    int bits = 0;
    while (value) {
        bits++;
        value >>= 1;
    }
    return bits;
#endif
}

static uint8_t *put_bytes(uint8_t *p, uint64_t value, int bits) {
    for (int done = 0; done < bits; done += 8) {
        *p++ = (uint8_t)(value >> done);
    }
    return p;
}

/* Values of `size` bits one after the other, the lowest bit first; p has room for a miniblock. */
static void pack_bits(uint8_t *p, const uint64_t *values, int count, int size) {
    uint8_t *end = p + size * DELTA_MINIBLOCK / 8;
    uint64_t word = 0;
    int filled = 0;
    for (int i = 0; i < count && size; i++) {
        word |= values[i] << filled;
        filled += size;
        if (filled >= 64) {
            p = put_bytes(p, word, 64);
            filled -= 64;
            word = filled ? values[i] >> (size - filled) : 0;
        }
    }
    p = put_bytes(p, word, filled);
    memset(p, 0, (size_t)(end - p));
}

static uint64_t unpack_bits(const uint8_t *p, int at, int size) {
    uint64_t value = 0;
    for (int done = 0; done < size;) {
        int shift = (at + done) & 7;
        value |= (uint64_t)(p[(at + done) >> 3] >> shift) << done;
        done += 8 - shift;
    }
    return size == 64 ? value : value & (((uint64_t)1 << size) - 1);
}

/* The n differences of n + 1 values that follow each other, as signed; returns the least one. */
static int64_t load_deltas(uint64_t *deltas, const uint8_t *values, int n, int width) {
    int64_t least = INT64_MAX;
    if (width == 4) {
        for (int i = 0; i < n; i++) {
            uint32_t pair[2];
            memcpy(pair, values + 4 * i, sizeof pair);
            int64_t delta = (int32_t)(pair[1] - pair[0]);
            deltas[i] = (uint64_t)delta;
            least = delta < least ? delta : least;
        }
    } else {
        for (int i = 0; i < n; i++) {
            uint64_t pair[2];
            memcpy(pair, values + 8 * i, sizeof pair);
            int64_t delta = (int64_t)(pair[1] - pair[0]);
            deltas[i] = (uint64_t)delta;
            least = delta < least ? delta : least;
        }
    }
    return least;
}

static uint8_t *encode_deltas(
    uint8_t *p, const uint8_t *column, Py_ssize_t count, int width
) {
    uint64_t mask = width == 4 ? 0xFFFFFFFFu : ~(uint64_t)0, deltas[DELTA_BLOCK];
    for (Py_ssize_t begin = 1; begin < count; begin += DELTA_BLOCK) {
        int n = count - begin < DELTA_BLOCK ? (int)(count - begin) : DELTA_BLOCK;
        int64_t least = load_deltas(deltas, column + (begin - 1) * width, n, width);
        p = put_zigzag(p, least);
        uint8_t *widths = p;
        memset(widths, 0, DELTA_MINIBLOCKS);
        p += DELTA_MINIBLOCKS;
        for (int at = 0; at < n; at += DELTA_MINIBLOCK) {
            int m = n - at < DELTA_MINIBLOCK ? n - at : DELTA_MINIBLOCK;
            uint64_t all = 0;
            for (int i = at; i < at + m; i++) {
                deltas[i] = (deltas[i] - (uint64_t)least) & mask;
                all |= deltas[i];
            }
            int size = bits_of(all);
            widths[at / DELTA_MINIBLOCK] = (uint8_t)size;
            pack_bits(p, deltas + at, m, size);
            p += size * DELTA_MINIBLOCK / 8;
        }
    }
    return p;
}

PyDoc_STRVAR(delta_encode_doc,
"delta_encode(column, width) -> bytes\n\n"
"Return a column of integers of 4 or 8 bytes in DELTA_BINARY_PACKED.");

static PyObject *delta_encode(PyObject *module, PyObject *args) {
    Py_buffer column;
    int width;
    if (!PyArg_ParseTuple(args, "y*i", &column, &width)) {
        return NULL;
    }
    if ((width != 4 && width != 8) || column.len % width != 0) {
        PyBuffer_Release(&column);
        PyErr_SetString(PyExc_ValueError, "not a column of this width");
        return NULL;
    }
    Py_ssize_t count = column.len / width;
    Py_ssize_t blocks = count / DELTA_BLOCK + 1;
    uint8_t *out = PyMem_RawMalloc(64 + (size_t)blocks * (16 + DELTA_MINIBLOCKS + 8 * DELTA_BLOCK));
    if (out == NULL) {
        PyBuffer_Release(&column);
        return PyErr_NoMemory();
    }
    uint8_t *p = put_varint(put_varint(out, DELTA_BLOCK), DELTA_MINIBLOCKS);
    p = put_varint(p, (uint64_t)count);
    p = put_zigzag(p, count ? as_signed(load_value(column.buf, width), width) : 0);
    PyThreadState *state = column.len >= RELEASE_BYTES ? PyEval_SaveThread() : NULL;
    p = encode_deltas(p, column.buf, count, width);
    if (state != NULL) {
        PyEval_RestoreThread(state);
    }
    PyBuffer_Release(&column);
    PyObject *result = PyBytes_FromStringAndSize((char *)out, p - out);
    PyMem_RawFree(out);
    return result;
}

/* Returns what is wrong with the bytes, or NULL. */
static const char *decode_deltas(
    const uint8_t *p, const uint8_t *end, uint8_t *out, Py_ssize_t count, int width
) {
    static const char *cut = "the encoded column is cut short";
    uint64_t block, miniblocks, total, value;
    int64_t first, least;
    if ((p = get_varint(p, end, &block)) == NULL || (p = get_varint(p, end, &miniblocks)) == NULL ||
        (p = get_varint(p, end, &total)) == NULL || (p = get_zigzag(p, end, &first)) == NULL) {
        return cut;
    }
    if (block != DELTA_BLOCK || miniblocks != DELTA_MINIBLOCKS || total != (uint64_t)count) {
        return "the encoded column has another shape than declared";
    }
    value = (uint64_t)first;
    if (count) {
        store_value(out, width, value);
    }
    for (Py_ssize_t done = 1; done < count;) {
        if ((p = get_zigzag(p, end, &least)) == NULL || end - p < DELTA_MINIBLOCKS) {
            return cut;
        }
        const uint8_t *widths = p;
        p += DELTA_MINIBLOCKS;
        for (int number = 0; number < DELTA_MINIBLOCKS; number++) {
            if (widths[number] > 8 * width) {
                return "the encoded column has impossible widths";
            }
        }
        for (int number = 0; number < DELTA_MINIBLOCKS && done < count; number++) {
            int size = widths[number], bytes = size * DELTA_MINIBLOCK / 8;
            if (end - p < bytes) {
                return cut;
            }
            for (int i = 0; i < DELTA_MINIBLOCK && done < count; i++, done++) {
                value += (uint64_t)least + unpack_bits(p, i * size, size);
                store_value(out + done * width, width, value);
            }
            p += bytes;
        }
    }
    return NULL;
}

PyDoc_STRVAR(delta_decode_doc,
"delta_decode(data, width, count) -> bytes\n\n"
"Return the column of count integers that data encodes. Raises ValueError.");

static PyObject *delta_decode(PyObject *module, PyObject *args) {
    Py_buffer data;
    int width;
    Py_ssize_t count;
    if (!PyArg_ParseTuple(args, "y*in", &data, &width, &count)) {
        return NULL;
    }
    /* A miniblock of equal differences takes no bytes, so the data do not bound the count. */
    if ((width != 4 && width != 8) || count < 0 || count > PY_SSIZE_T_MAX / 8) {
        PyBuffer_Release(&data);
        PyErr_SetString(PyExc_ValueError, "not a column of this width");
        return NULL;
    }
    PyObject *result = PyBytes_FromStringAndSize(NULL, count * width);
    if (result != NULL) {
        const uint8_t *begin = data.buf;
        const char *fault = decode_deltas(
            begin, begin + data.len, (uint8_t *)PyBytes_AS_STRING(result), count, width);
        if (fault != NULL) {
            Py_CLEAR(result);
            PyErr_SetString(PyExc_ValueError, fault);
        }
    }
    PyBuffer_Release(&data);
    return result;
}

/* One loop for each width, without a branch: every value is written, and the next one over a zero. */
#define SPLIT(type)                                                        \
    do {                                                                   \
        const type *values = column;                                       \
        type *to = present;                                                \
        for (Py_ssize_t i = 0; i < count; i++) {                           \
            *to = values[i];                                               \
            to += values[i] != 0;                                          \
            bits[i / 8] |= (uint8_t)((values[i] != 0) << i % 8);           \
        }                                                                  \
        return (char *)to - (char *)present;                               \
    } while (0)

static Py_ssize_t split_column(
    const void *column, Py_ssize_t count, int width, uint8_t *bits, void *present
) {
    if (width == 4) {
        SPLIT(uint32_t);
    }
    SPLIT(uint64_t);
}

PyDoc_STRVAR(split_nulls_doc,
"split_nulls(column, width) -> (bits, present)\n\n"
"Return which values of a column are not 0, a bit each, and those values.");

static PyObject *split_nulls(PyObject *module, PyObject *args) {
    Py_buffer column;
    int width;
    if (!PyArg_ParseTuple(args, "y*i", &column, &width)) {
        return NULL;
    }
    PyObject *bits = NULL, *present = NULL, *result = NULL;
    Py_ssize_t count = column.len / (width == 4 ? 4 : 8);
    if ((width != 4 && width != 8) || column.len % width != 0) {
        PyErr_SetString(PyExc_ValueError, "not a column of this width");
    } else if ((bits = PyBytes_FromStringAndSize(NULL, (count + 7) / 8)) != NULL &&
               /* room for the zero that may be written behind the last value */
               (present = PyBytes_FromStringAndSize(NULL, column.len + width)) != NULL) {
        uint8_t *to = (uint8_t *)PyBytes_AS_STRING(bits);
        void *values = PyBytes_AS_STRING(present);
        PyThreadState *state = column.len >= RELEASE_BYTES ? PyEval_SaveThread() : NULL;
        memset(to, 0, (size_t)(count + 7) / 8);
        Py_ssize_t size = split_column(column.buf, count, width, to, values);
        if (state != NULL) {
            PyEval_RestoreThread(state);
        }
        if (_PyBytes_Resize(&present, size) == 0) {
            result = PyTuple_Pack(2, bits, present);
        }
    }
    Py_XDECREF(bits);
    Py_XDECREF(present);
    PyBuffer_Release(&column);
    return result;
}

#define JOIN(type)                                                         \
    do {                                                                   \
        const type *from = present;                                        \
        type *to = column;                                                 \
        for (Py_ssize_t i = 0; i < count; i++) {                           \
            to[i] = bits[i / 8] >> i % 8 & 1 ? *from++ : 0;                \
        }                                                                  \
    } while (0)

PyDoc_STRVAR(join_nulls_doc,
"join_nulls(bits, present, width, count) -> column\n\n"
"Return the column that split_nulls was given. Raises ValueError for values that are too few or\n"
"too many.");

static PyObject *join_nulls(PyObject *module, PyObject *args) {
    Py_buffer mask, values;
    int width;
    Py_ssize_t count, found = 0;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "y*y*in", &mask, &values, &width, &count)) {
        return NULL;
    }
    const uint8_t *bits = mask.buf;
    const void *present = values.buf;
    for (Py_ssize_t i = 0; i < mask.len; i++) {
        for (uint8_t left = bits[i]; left; left &= (uint8_t)(left - 1)) {
            found++;
        }
    }
    if ((width != 4 && width != 8) || values.len % width != 0 || count < 0 ||
        count > PY_SSIZE_T_MAX / 8 || mask.len != (count + 7) / 8 || found != values.len / width ||
        (count % 8 && bits[count / 8] >> count % 8)) {
        PyErr_SetString(PyExc_ValueError, "the nulls of the encoded column do not fit its values");
    } else if ((result = PyBytes_FromStringAndSize(NULL, count * width)) != NULL) {
        void *column = PyBytes_AS_STRING(result);
        if (width == 4) {
            JOIN(uint32_t);
        } else {
            JOIN(uint64_t);
        }
    }
    PyBuffer_Release(&mask);
    PyBuffer_Release(&values);
    return result;
}

/* Radix sort of row numbers by a 64-bit key, byte by byte; a byte that is the same in all rows is
   passed over, which in practice leaves two or three. Returns whichever array holds the result. */
static uint32_t *radix_sort(
    const uint32_t *high, const uint32_t *low, uint32_t *rows, uint32_t *other, Py_ssize_t count
) {
    for (int byte = 0; byte < 8; byte++) {
        const uint32_t *keys = byte < 4 ? low : high;
        int shift = 8 * (byte & 3);
        Py_ssize_t counts[256] = {0}, begin = 0;
        for (Py_ssize_t i = 0; i < count; i++) {
            counts[keys[i] >> shift & 0xFF]++;
        }
        if (count == 0 || counts[keys[0] >> shift & 0xFF] == count) {
            continue;
        }
        for (int value = 0; value < 256; value++) {
            Py_ssize_t size = counts[value];
            counts[value] = begin;
            begin += size;
        }
        for (Py_ssize_t i = 0; i < count; i++) {
            other[counts[keys[rows[i]] >> shift & 0xFF]++] = rows[i];
        }
        uint32_t *swapped = rows;
        rows = other;
        other = swapped;
    }
    return rows;
}

PyDoc_STRVAR(sort_rows_doc,
"sort_rows(high, low) -> order\n\n"
"Return the row numbers (4 bytes each) that sort rows by two 4-byte columns, stably.");

static PyObject *sort_rows(PyObject *module, PyObject *args) {
    Py_buffer high, low;
    if (!PyArg_ParseTuple(args, "y*y*", &high, &low)) {
        return NULL;
    }
    Py_ssize_t size = low.len, count = size / 4;
    PyObject *result = NULL;
    uint32_t *rows = NULL;
    if (high.len != size || size % 4 != 0 || count > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "not two columns of equal length");
    } else if ((rows = PyMem_RawMalloc(2 * (size_t)size + 8)) == NULL) {
        PyErr_NoMemory();
    } else {
        for (Py_ssize_t i = 0; i < count; i++) {
            rows[i] = (uint32_t)i;
        }
        PyThreadState *state = size >= RELEASE_BYTES ? PyEval_SaveThread() : NULL;
        uint32_t *sorted = radix_sort(high.buf, low.buf, rows, rows + count, count);
        if (state != NULL) {
            PyEval_RestoreThread(state);
        }
        result = PyBytes_FromStringAndSize((char *)sorted, size);
    }
    PyMem_RawFree(rows);
    PyBuffer_Release(&high);
    PyBuffer_Release(&low);
    return result;
}

/* One loop for each width: a call of memcpy with a size that varies would cost ten times as much. */
#define TAKE(type)                                                         \
    do {                                                                   \
        const type *from = column;                                         \
        type *to = out;                                                    \
        for (Py_ssize_t i = 0; i < count; i++) {                           \
            if (rows[i] >= size) {                                         \
                return 0;                                                  \
            }                                                              \
            to[i] = from[rows[i]];                                         \
        }                                                                  \
        return 1;                                                          \
    } while (0)

static int take(
    void *out, const void *column, size_t size, int width, const uint32_t *rows, Py_ssize_t count
) {
    switch (width) {
    case 8: TAKE(uint64_t);
    case 4: TAKE(uint32_t);
    case 2: TAKE(uint16_t);
    default: TAKE(uint8_t);
    }
}

PyDoc_STRVAR(take_rows_doc,
"take_rows(column, width, order) -> bytes\n\n"
"Return the values of a column at the row numbers of order. Raises IndexError.");

static PyObject *take_rows(PyObject *module, PyObject *args) {
    Py_buffer column, order;
    int width;
    if (!PyArg_ParseTuple(args, "y*iy*", &column, &width, &order)) {
        return NULL;
    }
    PyObject *result = NULL;
    if ((width != 1 && width != 2 && width != 4 && width != 8) || column.len % width != 0 ||
        order.len % 4 != 0) {
        PyErr_SetString(PyExc_ValueError, "not a column of this width");
    } else if ((result = PyBytes_FromStringAndSize(NULL, order.len / 4 * width)) != NULL) {
        char *out = PyBytes_AS_STRING(result);
        size_t size = (size_t)(column.len / width);
        PyThreadState *state = order.len >= RELEASE_BYTES ? PyEval_SaveThread() : NULL;
        int fits = take(out, column.buf, size, width, order.buf, order.len / 4);
        if (state != NULL) {
            PyEval_RestoreThread(state);
        }
        if (!fits) {
            Py_CLEAR(result);
            PyErr_SetString(PyExc_IndexError, "a row number beyond the column");
        }
    }
    PyBuffer_Release(&column);
    PyBuffer_Release(&order);
    return result;
}

#define BOUNDS(type)                                                       \
    do {                                                                   \
        const type *values = column;                                       \
        type low = values[0], high = values[0];                            \
        for (size_t i = 1; i < count; i++) {                               \
            low = values[i] < low ? values[i] : low;                       \
            high = values[i] > high ? values[i] : high;                    \
        }                                                                  \
        *least = low;                                                      \
        *greatest = high;                                                  \
        return;                                                            \
    } while (0)

static void find_bounds(
    const void *column, size_t count, int width, uint64_t *least, uint64_t *greatest
) {
    switch (width) {
    case 8: BOUNDS(uint64_t);
    case 4: BOUNDS(uint32_t);
    case 2: BOUNDS(uint16_t);
    default: BOUNDS(uint8_t);
    }
}

PyDoc_STRVAR(column_bounds_doc,
"column_bounds(column, width) -> (least, greatest)\n\n"
"Return the bounds of a column that is not empty. Raises ValueError.");

static PyObject *column_bounds(PyObject *module, PyObject *args) {
    Py_buffer column;
    int width;
    if (!PyArg_ParseTuple(args, "y*i", &column, &width)) {
        return NULL;
    }
    if ((width != 1 && width != 2 && width != 4 && width != 8) || column.len % width != 0 ||
        column.len == 0) {
        PyBuffer_Release(&column);
        PyErr_SetString(PyExc_ValueError, "not a column of this width");
        return NULL;
    }
    uint64_t least, greatest;
    PyThreadState *state = column.len >= RELEASE_BYTES ? PyEval_SaveThread() : NULL;
    find_bounds(column.buf, (size_t)(column.len / width), width, &least, &greatest);
    if (state != NULL) {
        PyEval_RestoreThread(state);
    }
    PyBuffer_Release(&column);
    return Py_BuildValue("KK", (unsigned long long)least, (unsigned long long)greatest);
}

/* From PostgreSQL's epoch, 2000, to that of 1970. */
#define EPOCH_SHIFT_US INT64_C(946684800000000)

/* What the index asks of a scan's columns beside: how long records are, when transactions end, and which
   records have no block reference. */

PyDoc_STRVAR(end_distances_doc,
"end_distances(lsns, lengths, segment_bytes) -> bytes\n\n"
"Return for each record how far behind its LSN the next one can begin. Raises ValueError.");

static PyObject *end_distances(PyObject *module, PyObject *args) {
    Py_buffer lsns, lengths;
    unsigned long long segment;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "y*y*K", &lsns, &lengths, &segment)) {
        return NULL;
    }
    Py_ssize_t count = lengths.len / 4;
    if (lengths.len % 4 != 0 || lsns.len != 8 * count || segment < WAL_PAGE
        || segment & (segment - 1)) {
        PyErr_SetString(PyExc_ValueError, "not the columns of records");
    } else if ((result = PyBytes_FromStringAndSize(NULL, 8 * count)) != NULL) {
        uint64_t *ends = (uint64_t *)PyBytes_AS_STRING(result);
        const uint64_t *begin = lsns.buf;
        const uint32_t *length = lengths.buf;
        PyThreadState *state = lsns.len >= RELEASE_BYTES ? PyEval_SaveThread() : NULL;
        for (Py_ssize_t i = 0; i < count; i++) {
            uint64_t at = begin[i], content = length[i], left;
            for (;;) {
                if (at % WAL_PAGE == 0) {
                    at += at % segment ? 24 : 40;
                }
                left = WAL_PAGE - at % WAL_PAGE;
                if (content <= left) {
                    break;
                }
                content -= left;
                at += left;
            }
            ends[i] = ((at + content + 7) & ~(uint64_t)7) - begin[i];
        }
        if (state != NULL) {
            PyEval_RestoreThread(state);
        }
    }
    PyBuffer_Release(&lsns);
    PyBuffer_Release(&lengths);
    return result;
}

PyDoc_STRVAR(take_times_doc,
"take_times(data, ends) -> bytes\n\n"
"Return the times that end at these offsets (8 bytes each) of data, from 1970. Raises IndexError.");

static PyObject *take_times(PyObject *module, PyObject *args) {
    Py_buffer data, ends;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "y*y*", &data, &ends)) {
        return NULL;
    }
    if (ends.len % 8 != 0) {
        PyErr_SetString(PyExc_ValueError, "not a column of offsets");
    } else if ((result = PyBytes_FromStringAndSize(NULL, ends.len)) != NULL) {
        uint64_t *times = (uint64_t *)PyBytes_AS_STRING(result);
        const uint64_t *end = ends.buf;
        const uint8_t *begin = data.buf;
        for (Py_ssize_t i = 0; i < ends.len / 8; i++) {
            if (end[i] < 8 || end[i] > (uint64_t)data.len) {
                Py_CLEAR(result);
                PyErr_SetString(PyExc_IndexError, "an offset beyond the data");
                break;
            }
            int64_t time = (int64_t)little_long(begin + end[i] - 8);
            times[i] = time > -EPOCH_SHIFT_US ? (uint64_t)time + EPOCH_SHIFT_US : 0;
        }
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&ends);
    return result;
}

PyDoc_STRVAR(other_rows_doc,
"other_rows(count, named) -> order\n\n"
"Return the row numbers below count that named (4 bytes each) does not have. Raises IndexError.");

static PyObject *other_rows(PyObject *module, PyObject *args) {
    Py_buffer named;
    Py_ssize_t count, left = 0;
    uint8_t *seen = NULL;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "ny*", &count, &named)) {
        return NULL;
    }
    if (named.len % 4 != 0 || count < 0 || count > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "not a column of row numbers");
    } else if ((seen = PyMem_RawCalloc((size_t)count + 1, 1)) == NULL) {
        PyErr_NoMemory();
    } else {
        const uint32_t *row = named.buf;
        Py_ssize_t at = 0;
        for (left = count; at < named.len / 4 && row[at] < count; at++) {
            left -= !seen[row[at]];
            seen[row[at]] = 1;
        }
        if (at < named.len / 4) {
            PyErr_SetString(PyExc_IndexError, "a row number beyond the column");
        } else if ((result = PyBytes_FromStringAndSize(NULL, 4 * left)) != NULL) {
            uint32_t *to = (uint32_t *)PyBytes_AS_STRING(result);
            for (Py_ssize_t i = 0; i < count; i++) {
                if (!seen[i]) {
                    *to++ = (uint32_t)i;
                }
            }
        }
    }
    PyMem_RawFree(seen);
    PyBuffer_Release(&named);
    return result;
}

/* ---- PostgreSQL's data pages: docs/formats/postgres-archive.md, "Page checksums"; twin of
   pitr/postgres/base/page_checksum.py. 32 sums side by side, which compilers make vectors of. */

#define SUMS 32
#define FNV_PRIME 16777619u
#define PAGE_CHECKSUM_AT 8
#define PAGE_UPPER_AT 14

static const uint32_t sum_seeds[SUMS] = {
    0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
    0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
    0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
    0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
};

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__GLIBC__)
#define VECTOR_CLONES __attribute__((target_clones("avx2", "sse4.1", "default")))
#else
#define VECTOR_CLONES
#endif

/* Native byte order, as the server computes it: a data directory never changes it either. */
VECTOR_CLONES
static uint32_t sum_page(const uint8_t *page, Py_ssize_t size) {
    uint32_t sums[SUMS], row[SUMS];
    memcpy(sums, sum_seeds, sizeof sums);
    for (Py_ssize_t at = 0; at < size; at += sizeof row) {
        memcpy(row, page + at, sizeof row);
        if (at == 0) { /* the checksum itself counts as zero; its neighbour pd_flags does not */
            memset((uint8_t *)row + PAGE_CHECKSUM_AT, 0, 2);
        }
        for (int i = 0; i < SUMS; i++) {
            uint32_t mixed = sums[i] ^ row[i];
            sums[i] = mixed * FNV_PRIME ^ (mixed >> 17);
        }
    }
    uint32_t folded = 0;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < SUMS; i++) {
            sums[i] = sums[i] * FNV_PRIME ^ (sums[i] >> 17);
        }
    }
    for (int i = 0; i < SUMS; i++) {
        folded ^= sums[i];
    }
    return folded;
}

static int is_zero(const uint8_t *p, Py_ssize_t size) {
    return p[0] == 0 && memcmp(p, p + 1, (size_t)size - 1) == 0;
}

static int page_is_damaged(
    const uint8_t *page, Py_ssize_t size, uint32_t block, uint64_t judged_below
) {
    uint32_t high, low;
    uint16_t stored, upper;
    memcpy(&high, page, 4);
    memcpy(&low, page + 4, 4);
    memcpy(&stored, page + PAGE_CHECKSUM_AT, 2);
    memcpy(&upper, page + PAGE_UPPER_AT, 2);
    if (upper == 0) {
        return !is_zero(page, size);
    }
    if (((uint64_t)high << 32 | low) >= judged_below) {
        return 0;
    }
    return (uint16_t)((sum_page(page, size) ^ block) % 65535 + 1) != stored;
}

PyDoc_STRVAR(damaged_pages_doc,
"damaged_pages(data, page_size, first_block, judged_below) -> list of indexes\n\n"
"Return which whole pages of data contradict their checksum. first_block is the number of the\n"
"first one in its relation fork; pages with an LSN from judged_below on are not judged.");

static PyObject *damaged_pages(PyObject *module, PyObject *args) {
    Py_buffer data;
    Py_ssize_t page_size, count, at;
    unsigned int first_block;
    unsigned long long judged_below;
    if (!PyArg_ParseTuple(args, "y*nIK", &data, &page_size, &first_block, &judged_below)) {
        return NULL;
    }
    if (page_size < 1024 || page_size > 32768 || page_size % 128 != 0) {
        PyBuffer_Release(&data);
        PyErr_SetString(PyExc_ValueError, "not a page size");
        return NULL;
    }
    PyObject *found = PyList_New(0);
    const uint8_t *begin = data.buf;
    count = data.len / page_size;
    for (at = 0; found != NULL && at < count; at++) {
        PyThreadState *state = PyEval_SaveThread();
        while (at < count && !page_is_damaged(
                begin + at * page_size, page_size, first_block + (uint32_t)at, judged_below)) {
            at++;
        }
        PyEval_RestoreThread(state);
        PyObject *index = at < count ? PyLong_FromSsize_t(at) : NULL;
        if (at < count && (index == NULL || PyList_Append(found, index) < 0)) {
            Py_CLEAR(found);
        }
        Py_XDECREF(index);
    }
    PyBuffer_Release(&data);
    return found;
}

static PyMethodDef methods[] = {
    {"delta_encode", delta_encode, METH_VARARGS, delta_encode_doc},
    {"delta_decode", delta_decode, METH_VARARGS, delta_decode_doc},
    {"split_nulls", split_nulls, METH_VARARGS, split_nulls_doc},
    {"join_nulls", join_nulls, METH_VARARGS, join_nulls_doc},
    {"sort_rows", sort_rows, METH_VARARGS, sort_rows_doc},
    {"column_bounds", column_bounds, METH_VARARGS, column_bounds_doc},
    {"take_rows", take_rows, METH_VARARGS, take_rows_doc},
    {"end_distances", end_distances, METH_VARARGS, end_distances_doc},
    {"take_times", take_times, METH_VARARGS, take_times_doc},
    {"other_rows", other_rows, METH_VARARGS, other_rows_doc},
    {"wal_checksum", wal_checksum, METH_VARARGS, wal_checksum_doc},
    {"verify_frames", verify_frames, METH_VARARGS, verify_frames_doc},
    {"scan_wal", scan_wal, METH_VARARGS, scan_wal_doc},
    {"damaged_pages", damaged_pages, METH_VARARGS, damaged_pages_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_speedups", "Hot byte loops in C; see the Python twins.", 0, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__speedups(void) {
    choose_crc();
    return PyModule_Create(&definition);
}
