//! The filter flags of `hubble observe`, as filters of the API.
//!
//! Values of one flag are OR, different flags are AND. `--not` negates the flag after it: it is
//! folded into that flag's value before the flags are parsed ([`fold_not`]).

use std::ffi::OsString;

use anyhow::{Result, bail};
use ui::filter::Filters;

/// Stands before a value that is negated; no value on a command line begins with it.
const NOT: char = '\u{1}';

/// Flags that take no value, and the letters of short ones.
const SWITCHES: &[&str] = &[
    "ipv4",
    "ipv6",
    "all-namespaces",
    "from-all-namespaces",
    "to-all-namespaces",
    "encrypted",
    "unencrypted",
    "4",
    "6",
    "A",
];

macro_rules! flags {
    ($($(#[$meta:meta])* $name:ident: $value:literal,)*) => {
        /// Filters; each may be repeated, and negated by `--not` before it.
        #[derive(Debug, Clone, Default, clap::Args)]
        #[command(next_help_heading = "Filters")]
        pub struct FilterArgs {
            $($(#[$meta])* #[arg(long, value_name = $value)] pub $name: Vec<String>,)*
            /// IPv4 only.
            #[arg(short = '4', long)]
            pub ipv4: bool,
            /// IPv6 only.
            #[arg(short = '6', long)]
            pub ipv6: bool,
            /// Pods and services of any namespace, where none is named.
            #[arg(short = 'A', long)]
            pub all_namespaces: bool,
            #[command(flatten)]
            unsupported: Unsupported,
        }
    };
}

flags! {
    /// Pod of either end: [namespace/]prefix; `default` without a namespace.
    pod: "[NS/]PREFIX",
    /// Pod of the client.
    from_pod: "[NS/]PREFIX",
    /// Pod of the server.
    to_pod: "[NS/]PREFIX",
    /// Namespace of either end.
    #[arg(short = 'n')]
    namespace: "NS",
    /// Namespace of the client.
    from_namespace: "NS",
    /// Namespace of the server.
    to_namespace: "NS",
    /// Workload of either end: [Kind/]name.
    workload: "[KIND/]NAME",
    /// Workload of the client.
    from_workload: "[KIND/]NAME",
    /// Workload of the server.
    to_workload: "[KIND/]NAME",
    /// Address or CIDR of either end.
    ip: "IP",
    /// Address or CIDR of the client.
    from_ip: "IP",
    /// Address or CIDR of the server.
    to_ip: "IP",
    /// Port of either end.
    port: "PORT",
    /// Port of the client.
    from_port: "PORT",
    /// Port of the server.
    to_port: "PORT",
    /// DNS name of either end; `*` stands for anything.
    fqdn: "NAME",
    /// DNS name of the client.
    from_fqdn: "NAME",
    /// DNS name of the server.
    to_fqdn: "NAME",
    /// Labels of either end: a selector (`app=web,tier!=db`).
    #[arg(short = 'l')]
    label: "SELECTOR",
    /// Labels of the client.
    from_label: "SELECTOR",
    /// Labels of the server.
    to_label: "SELECTOR",
    /// Identity of either end: a number or a reserved name.
    identity: "ID",
    /// Identity of the client.
    from_identity: "ID",
    /// Identity of the server.
    to_identity: "ID",
    /// Service that was called: [namespace/]prefix.
    service: "[NS/]PREFIX",
    /// The same.
    to_service: "[NS/]PREFIX",
    /// tcp, udp, sctp, icmp, icmpv4, icmpv6.
    protocol: "NAME",
    /// v4 or v6.
    ip_version: "VERSION",
    /// TCP flags that were seen, all of them: syn,ack.
    tcp_flags: "LIST",
    /// FORWARDED, DROPPED, AUDIT, REDIRECTED, ERROR.
    verdict: "VERDICT",
    /// Why it was dropped: POLICY_DENIED, …
    drop_reason_desc: "REASON",
    /// ingress or egress.
    traffic_direction: "DIRECTION",
    /// trace or drop.
    #[arg(short = 't')]
    r#type: "TYPE",
    /// Node that saw it: [cluster/]node; `*` stands for anything.
    node_name: "NAME",
    /// Cluster of that node.
    cluster: "NAME",
    /// Interface that saw it.
    interface: "NAME",
    /// Process of this host that owns the socket.
    process: "NAME",
    /// SOURCE, DESTINATION, HOST; `all` shows every interface's row, not one per connection.
    reporter: "REPORTER",
    /// One connection, by its id.
    uuid: "ID",
}

/// Flags of `hubble observe` whose facts are not in a flow here; said when used.
#[derive(Debug, Clone, Default, clap::Args)]
struct Unsupported {
    #[arg(long, hide = true)]
    http_status: Vec<String>,
    #[arg(long, hide = true)]
    http_method: Vec<String>,
    #[arg(long, hide = true)]
    http_path: Vec<String>,
    #[arg(long, hide = true)]
    http_url: Vec<String>,
    #[arg(long, hide = true)]
    http_header: Vec<String>,
    #[arg(long, hide = true)]
    trace_id: Vec<String>,
    #[arg(long, hide = true)]
    ip_trace_id: Vec<String>,
    #[arg(long, hide = true)]
    cel_expression: Vec<String>,
    #[arg(long, hide = true)]
    node_label: Vec<String>,
    #[arg(long, hide = true)]
    snat_ip: Vec<String>,
    #[arg(long, hide = true)]
    from_service: Vec<String>,
    #[arg(long, hide = true)]
    allowlist: Vec<String>,
    #[arg(long, hide = true)]
    denylist: Vec<String>,
    #[arg(long, hide = true)]
    encrypted: bool,
    #[arg(long, hide = true)]
    unencrypted: bool,
}

/// Folds each `--not` of `weir observe …` into the flag after it.
///
/// # Errors
/// When there is no flag after it.
pub fn fold_not(arguments: Vec<OsString>) -> Result<Vec<OsString>> {
    if arguments.get(1).is_none_or(|command| command != "observe") {
        return Ok(arguments);
    }
    let mut out = Vec::with_capacity(arguments.len());
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        if argument != "--not" {
            out.push(argument);
            continue;
        }
        let flag = rest.next().and_then(|flag| flag.into_string().ok()).unwrap_or_default();
        if !flag.starts_with('-') || flag == "--not" {
            bail!("--not needs a filter after it, as in --not --verdict FORWARDED");
        }
        if let Some((flag, value)) = flag.split_once('=') {
            out.push(format!("{flag}={NOT}{value}").into());
        } else if SWITCHES.contains(&flag.trim_start_matches('-')) {
            match flag.as_str() {
                "-4" | "--ipv4" => out.push(format!("--ip-version={NOT}4").into()),
                "-6" | "--ipv6" => out.push(format!("--ip-version={NOT}6").into()),
                other => bail!("--not {other} has no meaning"),
            }
        } else {
            let value = rest.next().unwrap_or_default();
            let Some(value) = value.to_str() else { bail!("{flag}: the value is not UTF-8") };
            out.push(format!("{flag}={NOT}{value}").into());
        }
    }
    // A short flag takes its value with `=` only when written out.
    Ok(out)
}

// === impl FilterArgs ===

impl FilterArgs {
    /// As names and values of the API's filters.
    ///
    /// # Errors
    /// When a flag is used whose facts are not here, or two contradict each other.
    pub(super) fn pairs(&self) -> Result<Vec<(String, String)>> {
        self.unsupported.refuse()?;
        let mut out = Vec::new();
        let mut put = |name: &str, values: &[String]| {
            for value in values {
                match value.strip_prefix(NOT) {
                    Some(value) => out.push((format!("-{name}"), value.to_owned())),
                    None => out.push((name.to_owned(), value.clone())),
                }
            }
        };
        let scoped = [
            ("pod", &self.pod, "namespace", &self.namespace),
            ("source_pod", &self.from_pod, "source_namespace", &self.from_namespace),
            ("destination_pod", &self.to_pod, "destination_namespace", &self.to_namespace),
        ];
        let services: Vec<String> = self.service.iter().chain(&self.to_service).cloned().collect();
        for (pod, pods, space, spaces) in scoped {
            put(pod, &self.in_namespaces(pods, spaces, "")?);
            // A namespace that says where a pod or service is filters nothing more.
            if pods.is_empty() && (pod != "pod" || services.is_empty()) {
                put(space, spaces);
            }
        }
        put("service", &self.in_namespaces(&services, &self.namespace, "*")?);
        for (name, values) in [
            ("workload", &self.workload),
            ("source_workload", &self.from_workload),
            ("destination_workload", &self.to_workload),
            ("ip", &self.ip),
            ("source_ip", &self.from_ip),
            ("destination_ip", &self.to_ip),
            ("port", &self.port),
            ("source_port", &self.from_port),
            ("destination_port", &self.to_port),
            ("name", &self.fqdn),
            ("source_name", &self.from_fqdn),
            ("destination_name", &self.to_fqdn),
            ("label", &self.label),
            ("source_label", &self.from_label),
            ("destination_label", &self.to_label),
            ("identity", &self.identity),
            ("source_identity", &self.from_identity),
            ("destination_identity", &self.to_identity),
            ("protocol", &self.protocol),
            ("ip_version", &self.ip_version),
            ("tcp_flags", &self.tcp_flags),
            ("verdict", &self.verdict),
            ("drop_reason", &self.drop_reason_desc),
            ("direction", &self.traffic_direction),
            ("node", &self.node_name),
            ("cluster", &self.cluster),
            ("interface", &self.interface),
            ("process", &self.process),
            ("reporter", &self.reporter),
            ("flow_id", &self.uuid),
        ] {
            put(name, values);
        }
        for (version, on) in [("4", self.ipv4), ("6", self.ipv6)] {
            if on {
                put("ip_version", &[version.to_owned()]);
            }
        }
        for kind in &self.r#type {
            let (not, kind) = match kind.strip_prefix(NOT) {
                Some(kind) => (true, kind),
                None => (false, kind.as_str()),
            };
            let dropped = match kind.split(':').next().unwrap_or_default() {
                "drop" | "1" => true,
                "trace" | "4" => false,
                "l7" | "129" => bail!("--type l7: requests are in the table l7 (weir sql)"),
                other => bail!("--type {other}: flows here are `trace` or `drop`"),
            };
            let mark = if dropped == not { NOT.to_string() } else { String::new() };
            put("verdict", &[format!("{mark}DROPPED")]);
        }
        Ok(out)
    }

    /// The filters, checked.
    ///
    /// # Errors
    /// As [`pairs`](Self::pairs), or when a value does not fit.
    pub(super) fn filters(&self) -> Result<(Filters, Vec<(String, String)>)> {
        let pairs = self.pairs()?;
        let borrowed = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let filters = Filters::parse(borrowed, &[])?;
        Ok((filters, pairs))
    }

    /// Names with the namespaces that they are in, as Hubble completes them.
    fn in_namespaces(&self, names: &[String], spaces: &[String], end: &str) -> Result<Vec<String>> {
        let mut out = Vec::new();
        for name in names {
            let (mark, name) = match name.strip_prefix(NOT) {
                Some(name) => (NOT.to_string(), name),
                None => (String::new(), name.as_str()),
            };
            let whole = |space: &str, bare: &str| {
                let end = if bare.is_empty() || bare.ends_with('*') { "" } else { end };
                format!("{mark}{space}/{bare}{end}")
            };
            match name.split_once('/') {
                Some((space, bare)) => {
                    if !space.is_empty() && !spaces.is_empty() && !spaces.iter().any(|s| s == space)
                    {
                        bail!(
                            "namespace conflict: {:?} does not contain {name:?}",
                            spaces.join(",")
                        );
                    }
                    out.push(whole(space, bare));
                }
                None if !spaces.is_empty() => {
                    out.extend(spaces.iter().map(|space| whole(space, name)));
                }
                None if self.all_namespaces => out.push(whole("", name)),
                None => out.push(whole("default", name)),
            }
        }
        Ok(out)
    }
}

// === impl Unsupported ===

impl Unsupported {
    fn refuse(&self) -> Result<()> {
        let layer7 = [
            ("http-status", &self.http_status),
            ("http-method", &self.http_method),
            ("http-path", &self.http_path),
            ("http-url", &self.http_url),
            ("http-header", &self.http_header),
        ];
        if let Some((flag, _)) = layer7.iter().find(|(_, values)| !values.is_empty()) {
            bail!(
                "--{flag} needs layer 7 records: ask the table l7 (weir sql \"SELECT * FROM l7\")"
            );
        }
        let unknown = [
            ("trace-id", &self.trace_id),
            ("ip-trace-id", &self.ip_trace_id),
            ("cel-expression", &self.cel_expression),
            ("node-label", &self.node_label),
            ("snat-ip", &self.snat_ip),
            ("from-service", &self.from_service),
            ("allowlist", &self.allowlist),
            ("denylist", &self.denylist),
        ];
        if let Some((flag, _)) = unknown.iter().find(|(_, values)| !values.is_empty()) {
            bail!(
                "--{flag}: flows here do not have that; `weir observe --help` lists what there is"
            );
        }
        if self.encrypted || self.unencrypted {
            bail!("--encrypted, --unencrypted: flows here do not say whether they were encrypted");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        filters: FilterArgs,
    }

    fn parse(line: &str) -> Result<Vec<(String, String)>> {
        let words = ["weir", "observe"].into_iter().chain(line.split_whitespace());
        let folded = fold_not(words.map(OsString::from).collect())?;
        let rest = folded.into_iter().enumerate().filter(|(at, _)| *at != 1).map(|(_, word)| word);
        Command::try_parse_from(rest)?.filters.pairs()
    }

    #[test]
    fn flags_as_filters() {
        let check = |line: &str, expected: &str| {
            let pairs = parse(line).unwrap();
            let text: Vec<_> =
                pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
            assert_eq!(text.join(" "), expected, "{line}");
        };
        check("", "");
        check("--pod tiefighter", "pod=default/tiefighter");
        check("--pod /tiefighter", "pod=/tiefighter");
        check("--pod tiefighter -A", "pod=/tiefighter");
        check(
            "--from-pod kube-system/coredns --to-port 53",
            "source_pod=kube-system/coredns destination_port=53",
        );
        check("-n shop", "namespace=shop");
        check("-n shop --pod web", "pod=shop/web");
        check("-n shop -n data --pod web", "pod=shop/web pod=data/web");
        check(
            "--to-namespace data --from-ip 10.0.0.0/8",
            "destination_namespace=data source_ip=10.0.0.0/8",
        );
        check("--service kube-dns -n kube-system", "service=kube-system/kube-dns*");
        check("--service shop/", "service=shop/");
        check("--not --verdict FORWARDED", "-verdict=FORWARDED");
        check("--not --verdict=FORWARDED --port 80", "port=80 -verdict=FORWARDED");
        check("--not -n kube-system", "-namespace=kube-system");
        check("--not --pod web", "-pod=default/web");
        check("-4 --not --ipv6", "-ip_version=6 ip_version=4");
        check("-t drop", "verdict=DROPPED");
        check("-t trace", "-verdict=DROPPED");
        check("--not -t drop", "-verdict=DROPPED");
        check("-l app=web --fqdn *.example.com", "name=*.example.com label=app=web");
        check("--identity world --tcp-flags syn,ack", "identity=world tcp_flags=syn,ack");
        check("--node-name prod/n* --interface eth0", "node=prod/n* interface=eth0");
    }

    #[test]
    fn mistakes_are_told() {
        for (line, why) in [
            ("--http-status 500", "layer 7"),
            ("--type l7", "l7"),
            ("--cel-expression true", "do not have"),
            ("-n shop --pod data/redis", "namespace conflict"),
            ("--not", "--not needs a filter"),
            ("--not --not --port 1", "--not needs a filter"),
            ("--not --all-namespaces", "no meaning"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(why), "{line}: {error}");
        }
        for line in ["--port http", "--ip example.com", "--verdict MAYBE", "--protocol http"] {
            let words = ["weir", "observe"].into_iter().chain(line.split_whitespace());
            let words = words.filter(|word| *word != "observe");
            let command = Command::try_parse_from(words).unwrap();
            assert!(command.filters.filters().is_err(), "{line}");
        }
    }
}
