//! weir-edge
