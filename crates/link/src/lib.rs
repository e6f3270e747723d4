//! weir-link
