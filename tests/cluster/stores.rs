//! The stores of the harness themselves: that they come up, survive a kill, and come back with their data. Other tests
//! stand on this.

use std::time::Duration;

use anyhow::{Result, ensure};
use weir_tests::{HdfsCluster, KafkaCluster, Scratch, until};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn hdfs_comes_back_with_its_files() {
    Scratch::run("hdfs-comes-back", |scratch| {
        let mut hdfs = HdfsCluster::start(scratch, 1)?;
        let local = scratch.write("local", "what was written")?;
        hdfs.shell(&["-put", &local.display().to_string(), "/file"])?;

        hdfs.data_node(0)?.kill_9()?;
        hdfs.restart_data_node(0)?;
        hdfs.name_node().kill_9()?;
        hdfs.restart_name_node()?;
        assert_eq!(hdfs.shell(&["-cat", "/file"])?, "what was written");

        hdfs.stop_all()?;
        assert!(hdfs.shell(&["-Dipc.client.connect.max.retries=0", "-cat", "/file"]).is_err());
        hdfs.restart_all()?;
        assert_eq!(hdfs.shell(&["-cat", "/file"])?, "what was written");
        Ok(())
    });
}

#[test]
fn kafka_comes_back_on_its_old_port() {
    Scratch::run("kafka-comes-back", |scratch| {
        let mut kafka = KafkaCluster::start(scratch, 1)?;
        let port = kafka.ports()[0];
        assert_eq!(kafka.bootstrap(), format!("127.0.0.1:{port}"));
        std::net::TcpStream::connect(kafka.bootstrap())?;

        kafka.broker(0)?.kill_9()?;
        assert!(std::net::TcpStream::connect(kafka.bootstrap()).is_err());
        kafka.restart(0)?;
        std::net::TcpStream::connect(kafka.bootstrap())?;

        kafka.stop_all()?;
        until("the port to close", LONG, || -> Result<()> {
            ensure!(std::net::TcpStream::connect(kafka.bootstrap()).is_err(), "it accepts");
            Ok(())
        })?;
        kafka.restart_all()?;
        std::net::TcpStream::connect(kafka.bootstrap())?;
        Ok(())
    });
}
