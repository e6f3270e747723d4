//! weir-store-file
