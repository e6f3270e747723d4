//! weir-topology
