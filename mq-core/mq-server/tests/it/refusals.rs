//! Starts that fail: a status that says so, and a sentence that says what to do.

use std::net::TcpListener;

use crate::process::{Mq, outcome};

#[test]
fn a_start_that_cannot_work_fails_with_its_reason() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("a plain path").to_owned();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("bound").port().to_string();
    let (store, conf) = (path("store"), path("broker.conf"));
    std::fs::write(&conf, "flushDiskType=SOMETIMES").expect("written");
    std::fs::write(path("open.conf"), "bindAddress=0.0.0.0\nbrokerIP1=10.0.0.1").expect("written");
    std::fs::write(path("file"), "not a directory").expect("written");
    let running = Mq::up(&directory.path().join("locked"), &[]);
    for (arguments, reason) in [
        (vec!["namesrv", "--port", &taken], format!("the name server cannot take 127.0.0.1:{taken}: Address already")),
        (vec!["broker", "--store", &store, "--port", &taken], format!("the broker cannot take 127.0.0.1:{taken}: Add")),
        (vec!["namesrv", "--bind", "0.0.0.0"], "not to listen on 0.0.0.0: there is no authentication".into()),
        (vec!["up", "-c", &path("open.conf"), "--store", &store], "or pass --insecure if you trust".into()),
        (vec!["up", "-c", &path("missing.conf")], "cannot read".into()),
        (vec!["up", "-c", &conf], "flushDiskType=SOMETIMES: SYNC_FLUSH or ASYNC_FLUSH is expected".into()),
        (up(&path("locked")), "another process has this store open".into()),
        (up(&path("file")), format!("{}/config", path("file"))),
    ] {
        let (success, said) = outcome(&arguments);
        assert!(!success, "{arguments:?}");
        assert!(said.contains(&reason), "{arguments:?}: {said}");
    }
    assert!(running.stop().success());
}

fn up(store: &str) -> Vec<&str> {
    vec!["up", "--port", "0", "--namesrv-port", "0", "--store", store]
}

#[test]
fn unknown_settings_warn_with_the_nearest_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let conf = directory.path().join("broker.conf");
    std::fs::write(&conf, "flushDiskTyp=ASYNC_FLUSH\nbrokerIP1=nonsense").expect("written");
    let (success, said) = outcome(&["up", "-c", conf.to_str().expect("a plain path")]);
    assert!(!success);
    assert!(said.contains("brokerIP1=nonsense: an IP address is expected"), "{said}");
    std::fs::write(&conf, "flushDiskTyp=ASYNC_FLUSH").expect("written");
    let store = directory.path().join("file");
    std::fs::write(&store, "not a directory").expect("written");
    let arguments = [&up(store.to_str().expect("a plain path"))[..], &["-c", conf.to_str().expect("a plain path")]];
    let (_, said) = outcome(&arguments.concat());
    assert!(said.contains("unknown key flushDiskTyp; did you mean flushDiskType?"), "{said}");
}
