//! What outlives the process, and what the next one makes of it.

use datapath_abi::reported::{KIND_CONN, Reported, ReportedKey, TOTALS};
use datapath_loader::{Error, Event, Mode, Transport};

use crate::kernel::lab::{Lab, parts, settled, within};
use crate::kernel::traffic;

fn counts_on(name: &str, clsact: bool) {
    let lab = Lab::new(name);
    let mut datapath = lab.open_with(clsact);
    let attached = lab.attach(&mut datapath);
    let before = settled(&lab, &datapath, &attached);
    traffic::udp(&lab, false, 7000, 100, 100);
    let key = ReportedKey { kind: KIND_CONN, link: 7, ends: 9 };
    let reported =
        Reported { id: 1, batch: 2, seq_was: 3, seq_now: 4, was: [5; TOTALS], now: [6; TOTALS] };
    datapath.reported().write(&[(key, reported)]).unwrap();
    drop(datapath);
    // Nobody is there.
    traffic::udp(&lab, false, 7000, 100, 100);
    let mut datapath = lab.open_with(clsact);
    assert!(datapath.adopted());
    assert_eq!(datapath.attached(), std::slice::from_ref(&attached));
    assert_eq!(lab.attach(&mut datapath), attached, "attaching again does nothing");
    traffic::udp(&lab, false, 7000, 100, 100);
    let after = settled(&lab, &datapath, &attached);
    assert_eq!(after.1 - before.1, after.0 - before.0);
    assert!(parts(&datapath, &attached).0.tx.0 >= 300);
    // Without loss or repetition, events of the time between are still in the rings.
    let mut created = 0;
    let mut events = datapath.events().unwrap();
    events.drain(&mut |event| {
        if let Event::Conn(event) = event {
            created += u64::from(event.kind == datapath_abi::event::CREATED);
        }
    });
    assert_eq!(created, datapath.connections().walk(&mut |_, _| ()).unwrap());
    let mut found = Vec::new();
    datapath.reported().walk(&mut |key, value| found.push((*key, *value))).unwrap();
    assert_eq!(found, [(key, reported)]);
    datapath.reported().remove(&[key, key]).unwrap();
    let mut left = 0;
    datapath.reported().walk(&mut |_, _| left += 1).unwrap();
    assert_eq!(left, 0);
    datapath.remove().unwrap();
}

#[test]
fn tcx_counts_on() {
    counts_on("adopt", false);
}

#[test]
fn clsact_counts_on() {
    counts_on("adoptc", true);
}

#[test]
fn another_size_is_refused() {
    let mut lab = Lab::new("size");
    drop(lab.open());
    lab.options.max_connections *= 2;
    let options = lab.options.clone();
    let error = within(&lab.here(), move || datapath_loader::Datapath::open(options)).unwrap_err();
    assert!(matches!(error, Error::Size { .. }), "{error}");
    println!("{error}");
    // Events are only news: rings of another size are made.
    lab.options.max_connections /= 2;
    lab.options.ring_bytes *= 2;
    assert!(lab.open().adopted());
    lab.options.transport = Transport::Perf;
    assert!(lab.open().adopted());
}

#[test]
fn an_interface_that_is_gone_is_let_go() {
    let lab = Lab::new("gone");
    let mut datapath = lab.open();
    let attached = lab.attach(&mut datapath);
    drop(datapath);
    crate::kernel::lab::ip(&["-n", &lab.here(), "link", "del", "veth0"]);
    let mut datapath = lab.open();
    assert_eq!(datapath.attached(), []);
    datapath.detach(attached.ifindex).unwrap();
    datapath.forget(attached.ifindex).unwrap();
    datapath.remove().unwrap();
}

#[test]
fn what_cannot_be_is_said() {
    let lab = Lab::new("say");
    let mut datapath = lab.open();
    let error = datapath.attach("no-such-iface", Mode::Observe).unwrap_err();
    assert!(matches!(error, Error::NoInterface { .. }), "{error}");
    let mut options = lab.options.clone();
    options.ring_bytes = 5000;
    let error = datapath_loader::Datapath::open(options).unwrap_err();
    assert!(matches!(error, Error::Option { option: "ring_bytes", .. }), "{error}");
    let mut options = lab.options.clone();
    options.pin_dir = "/tmp/wl-not-bpffs".into();
    let error = datapath_loader::Datapath::open(options).unwrap_err();
    assert!(matches!(error, Error::NotBpffs { .. }), "{error}");
    datapath.remove().unwrap();
}
