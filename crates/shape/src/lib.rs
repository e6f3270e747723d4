//! weir-shape
