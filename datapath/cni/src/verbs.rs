//! The verbs.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::{Error, Invocation, NetConf};

/// Versions of the specification that are spoken, oldest first. Before 0.3.0 there were no chains.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Where the agent listens unless the configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/weir/agent.sock";

/// Longest configuration that is read, bytes; a chain's result is a few kilobytes.
const MAX_INPUT: u64 = 1 << 20;

/// Carries out one invocation: reads the configuration from `input`, writes the answer (a result or
/// an error, as the specification has them) to `output`. Returns the exit code.
pub fn run(invocation: &Invocation, input: &mut dyn Read, output: &mut dyn Write) -> u8 {
    let mut version = VERSIONS[VERSIONS.len() - 1].to_owned();
    let answered = read(input).and_then(|config| {
        if VERSIONS.contains(&config.version.as_str()) {
            version.clone_from(&config.version);
        }
        carry_out(invocation, &config)
    });
    let (answer, code) = match answered {
        Ok(answer) => (answer, 0),
        Err(error) => (Some(json!(error.reply(&version))), 1),
    };
    match answer.map(|answer| writeln!(output, "{answer}")) {
        Some(Err(_)) => 1,
        _ => code,
    }
}

fn read(input: &mut dyn Read) -> Result<NetConf, Error> {
    let mut text = String::new();
    input.take(MAX_INPUT).read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}

fn carry_out(invocation: &Invocation, config: &NetConf) -> Result<Option<Value>, Error> {
    if invocation.command == "VERSION" {
        return Ok(Some(json!({
            "cniVersion": config.version,
            "supportedVersions": VERSIONS,
        })));
    }
    if !VERSIONS.contains(&config.version.as_str()) {
        return Err(Error::Version(config.version.clone()));
    }
    match invocation.command.as_str() {
        "ADD" => {
            invocation.check(true)?;
            add(invocation, config).map(Some)
        }
        "CHECK" => {
            invocation.check(true)?;
            check(invocation, config).map(|()| None)
        }
        // What was not made here need not be unmade; it must succeed however often it is asked.
        "DEL" => invocation.check(false).map(|()| None),
        "GC" => Ok(None),
        "STATUS" => status(config).map(|()| None),
        _ => Err(Error::Environment { name: "CNI_COMMAND", why: "is missing or unknown" }),
    }
}

/// Hands on what the plugin before made.
fn add(invocation: &Invocation, config: &NetConf) -> Result<Value, Error> {
    check(invocation, config)?;
    let mut result = config.previous.clone().unwrap_or_default();
    result["cniVersion"] = json!(config.version);
    Ok(result)
}

fn check(invocation: &Invocation, config: &NetConf) -> Result<(), Error> {
    match &config.previous {
        None => Err(Error::Config(
            "prevResult is missing: weir-cni observes what another plugin made, so it must not \
             be the first of its chain",
        )),
        Some(previous) if !previous.is_object() => Err(Error::Config("prevResult is no object")),
        Some(_) if !config.has_interface(&invocation.interface) => {
            Err(Error::Interface(invocation.interface.clone()))
        }
        Some(_) => Ok(()),
    }
}

/// Pods that start while there is no agent would go unobserved.
fn status(config: &NetConf) -> Result<(), Error> {
    let socket = config.socket.as_deref().unwrap_or(DEFAULT_SOCKET);
    UnixStream::connect(socket)
        .map(drop)
        .map_err(|source| Error::Agent { socket: socket.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn ask(command: &str, config: &Value) -> (u8, Value) {
        let invocation = Invocation {
            command: command.to_owned(),
            container: "abc123".to_owned(),
            netns: "/run/netns/x".to_owned(),
            interface: "eth0".to_owned(),
        };
        answer(&invocation, &config.to_string())
    }

    fn answer(invocation: &Invocation, config: &str) -> (u8, Value) {
        let mut output = Vec::new();
        let code = run(invocation, &mut config.as_bytes(), &mut output);
        (code, serde_json::from_slice(&output).unwrap_or_default())
    }

    fn chained() -> Value {
        json!({
            "cniVersion": "1.0.0", "name": "net", "type": "weir-cni",
            "prevResult": {
                "cniVersion": "1.0.0",
                "interfaces": [{"name": "veth1"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
                "ips": [{"address": "10.1.0.5/24", "interface": 1}],
                "dns": {"nameservers": ["10.96.0.10"]},
            },
        })
    }

    #[test]
    fn add_hands_on_the_result_and_del_always_succeeds() {
        let (code, result) = ask("ADD", &chained());
        assert_eq!((code, &result), (0, &chained()["prevResult"]));
        for verb in ["CHECK", "DEL", "GC"] {
            assert_eq!(ask(verb, &chained()), (0, Value::Null), "{verb}");
        }
        let bare = json!({"cniVersion": "1.1.0", "name": "net"});
        assert_eq!(ask("DEL", &bare), (0, Value::Null));
        // The result is of the configuration's version.
        let mut older = chained();
        older["cniVersion"] = json!("0.4.0");
        assert_eq!(ask("ADD", &older).1["cniVersion"], "0.4.0");
    }

    #[test]
    fn version_lists_them() {
        let (code, result) = ask("VERSION", &json!({"cniVersion": "9.9.9"}));
        assert_eq!(code, 0);
        assert_eq!(result["supportedVersions"], json!(VERSIONS));
        assert_eq!(result["cniVersion"], "9.9.9");
    }

    #[test]
    fn errors_have_the_specifications_codes() {
        let mut elsewhere = chained();
        elsewhere["prevResult"]["interfaces"] = json!([{"name": "eth1"}]);
        for (verb, config, expected) in [
            ("ADD", json!({"cniVersion": "1.0.0"}), 7),
            ("ADD", json!({"cniVersion": "1.0.0", "prevResult": 1}), 7),
            ("ADD", json!({"cniVersion": "0.2.0"}), 1),
            ("ADD", json!("text"), 6),
            ("ADD", elsewhere.clone(), 100),
            ("CHECK", elsewhere, 100),
            ("FROB", chained(), 4),
            ("STATUS", json!({"cniVersion": "1.1.0", "socket": "/nowhere/agent.sock"}), 50),
        ] {
            let (code, error) = ask(verb, &config);
            assert_eq!((code, &error["code"]), (1, &json!(expected)), "{verb} {config}");
            assert!(!error["msg"].as_str().unwrap().is_empty());
        }
    }

    #[test]
    fn parameters_are_checked() {
        let good = Invocation {
            command: "ADD".into(),
            container: "a-1".into(),
            netns: "/x".into(),
            interface: "eth0".into(),
        };
        for bad in [
            Invocation { container: "../x".into(), ..good.clone() },
            Invocation { container: String::new(), ..good.clone() },
            Invocation { interface: "a/b".into(), ..good.clone() },
            Invocation { interface: "sixteen-letters-".into(), ..good.clone() },
            Invocation { interface: "..".into(), ..good.clone() },
            Invocation { netns: String::new(), ..good.clone() },
        ] {
            let (code, error) = answer(&bad, &chained().to_string());
            assert_eq!((code, &error["code"]), (1, &json!(4)), "{bad:?}");
        }
        assert_eq!(answer(&good, &chained().to_string()).0, 0);
        assert_eq!(answer(&good, "{").1["code"], 6);
    }

    #[test]
    fn status_is_whether_the_agent_answers() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        let config = json!({"cniVersion": "1.1.0", "socket": socket});
        assert_eq!(ask("STATUS", &config).0, 1);
        let _listener = UnixListener::bind(&socket).unwrap();
        assert_eq!(ask("STATUS", &config), (0, Value::Null));
    }
}
