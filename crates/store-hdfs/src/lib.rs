//! weir-store-hdfs
