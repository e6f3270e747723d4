//! weir-forward
