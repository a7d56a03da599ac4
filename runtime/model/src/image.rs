//! Image references and digests.
