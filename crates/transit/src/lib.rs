//! weir-transit
