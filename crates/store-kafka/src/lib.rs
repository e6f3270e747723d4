//! weir-store-kafka
