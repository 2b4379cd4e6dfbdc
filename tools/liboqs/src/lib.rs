//! Empty on purpose: only the C source inside `oqs-sys` is wanted.
