"""The tests; helpers that several of them share are imported in full: `from tests.… import …`."""
