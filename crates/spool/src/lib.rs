//! weir-spool
