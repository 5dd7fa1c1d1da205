"""The science and the vocabulary of fedrad: pure functions on arrays, tables and volumes."""
