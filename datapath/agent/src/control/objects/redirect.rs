//! `cilium.io/v2` CiliumLocalRedirectPolicy.

use std::net::IpAddr;

use datapath_policy::{NamedPort, Selector};
use model::Protocol;
use serde::Deserialize;

use super::{Meta, address};
use crate::control::{LocalRedirect, RedirectFrontend};

/// Most ports of a frontend, and of its backends.
const PORTS: usize = 100;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RedirectObject {
    api_version: String,
    metadata: Meta,
    spec: Spec,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    redirect_frontend: Frontend,
    redirect_backend: Backend,
    #[serde(default)]
    skip_redirect_from_backend: bool,
    #[serde(default, rename = "description")]
    _description: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Frontend {
    #[serde(default)]
    address_matcher: Option<AddressMatcher>,
    #[serde(default)]
    service_matcher: Option<ServiceMatcher>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AddressMatcher {
    ip: String,
    to_ports: Vec<PortInfo>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ServiceMatcher {
    service_name: String,
    namespace: String,
    #[serde(default)]
    to_ports: Option<Vec<PortInfo>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Backend {
    local_endpoint_selector: Selector,
    to_ports: Vec<PortInfo>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PortInfo {
    port: Number,
    protocol: String,
    #[serde(default)]
    name: String,
}

/// The API has text; a number is understood too.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Number {
    Number(u64),
    Text(String),
}

// === impl RedirectObject ===

impl RedirectObject {
    pub(crate) fn redirect(self) -> Result<LocalRedirect, String> {
        self.metadata.check()?;
        if self.api_version != "cilium.io/v2" {
            return Err(format!("apiVersion {:?}, expected \"cilium.io/v2\"", self.api_version));
        }
        let namespace = self.metadata.namespace();
        let backend = self.spec.redirect_backend;
        backend
            .local_endpoint_selector
            .validate()
            .map_err(|why| format!("spec.redirectBackend.localEndpointSelector: {why}"))?;
        let redirect = LocalRedirect {
            frontend: self.spec.redirect_frontend.frontend(&namespace)?,
            namespace,
            name: self.metadata.name,
            selector: backend.local_endpoint_selector,
            ports: ports("spec.redirectBackend.toPorts", &backend.to_ports, 1)?,
            skip_from_backend: self.spec.skip_redirect_from_backend,
        };
        redirect.check()?;
        Ok(redirect)
    }
}

// === impl Frontend ===

impl Frontend {
    fn frontend(self, namespace: &str) -> Result<RedirectFrontend, String> {
        const IN: &str = "spec.redirectFrontend";
        match (self.address_matcher, self.service_matcher) {
            (Some(of), None) => {
                let ip: IpAddr = address(&format!("{IN}.addressMatcher.ip"), of.ip.trim())?;
                if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
                    return Err(format!("{IN}.addressMatcher.ip: {ip} cannot be redirected"));
                }
                let ports = ports(&format!("{IN}.addressMatcher.toPorts"), &of.to_ports, 1)?;
                Ok(RedirectFrontend::Address { ip, ports })
            }
            (None, Some(of)) => {
                if of.service_name.is_empty() {
                    return Err(format!("{IN}.serviceMatcher.serviceName is empty"));
                }
                if of.namespace != namespace {
                    return Err(format!(
                        "{IN}.serviceMatcher.namespace: {:?} is not the policy's own, {namespace:?}",
                        of.namespace
                    ));
                }
                let list = of.to_ports.unwrap_or_default();
                let ports = ports(&format!("{IN}.serviceMatcher.toPorts"), &list, 0)?;
                Ok(RedirectFrontend::Service { name: of.service_name, ports })
            }
            _ => Err(format!("{IN}: exactly one of addressMatcher and serviceMatcher is needed")),
        }
    }
}

fn ports(place: &str, list: &[PortInfo], least: usize) -> Result<Vec<NamedPort>, String> {
    if list.len() < least || list.len() > PORTS {
        return Err(format!("{place}: {} ports are not within {least} and {PORTS}", list.len()));
    }
    let mut found: Vec<NamedPort> = Vec::new();
    for (i, info) in list.iter().enumerate() {
        let port = info.port().map_err(|why| format!("{place}[{i}]: {why}"))?;
        if list.len() > 1 && port.name.is_empty() {
            return Err(format!("{place}[{i}]: one of several ports needs a name"));
        }
        if found.iter().any(|known| known.name.eq_ignore_ascii_case(&port.name)) {
            return Err(format!("{place}[{i}]: there is a port {:?} already", port.name));
        }
        found.push(port);
    }
    Ok(found)
}

// === impl PortInfo ===

impl PortInfo {
    fn port(&self) -> Result<NamedPort, String> {
        let number = match &self.port {
            Number::Number(number) => u16::try_from(*number).ok(),
            Number::Text(text) => text.trim().parse().ok(),
        };
        let port = number.filter(|number| *number != 0).ok_or("port is not within 1 and 65535")?;
        let protocol = match self.protocol.to_ascii_uppercase().as_str() {
            "TCP" => Protocol::TCP.0,
            "UDP" => Protocol::UDP.0,
            _ => return Err(format!("protocol {:?} is neither TCP nor UDP", self.protocol)),
        };
        Ok(NamedPort { name: self.name.clone(), protocol, port })
    }
}

// === impl LocalRedirect ===

impl LocalRedirect {
    /// Every port that the frontend names leads somewhere.
    fn check(&self) -> Result<(), String> {
        let (RedirectFrontend::Address { ports, .. } | RedirectFrontend::Service { ports, .. }) =
            &self.frontend;
        for (i, port) in ports.iter().enumerate() {
            let NamedPort { name, protocol, port: number } = port;
            let what = format!("{} port {number}", Protocol(*protocol).name());
            if ports[..i].iter().any(|known| (known.port, known.protocol) == (*number, *protocol)) {
                return Err(format!("spec.redirectFrontend: {what} is there twice"));
            }
            if self.backend_port(port, ports.len()).is_none() {
                return Err(format!(
                    "spec.redirectBackend.toPorts: none is for the frontend's {what} {name:?}"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::document::parse;

    const DNS: &str = "\
apiVersion: cilium.io/v2
kind: CiliumLocalRedirectPolicy
metadata: {name: dns, namespace: kube-system}
spec:
  redirectFrontend:
    addressMatcher:
      ip: 169.254.20.10
      toPorts: [{port: '53', protocol: UDP, name: dns}, {port: '53', protocol: TCP, name: dns-tcp}]
  redirectBackend:
    localEndpointSelector: {matchLabels: {k8s-app: dns}}
    toPorts: [{port: '1053', protocol: UDP, name: DNS}, {port: '1054', protocol: TCP, name: dns-tcp}]
";

    #[test]
    fn both_kinds_of_frontend() {
        let parsed = parse("a", DNS);
        assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
        let [policy] = parsed.objects.redirects.as_slice() else { panic!() };
        assert_eq!((policy.id().as_str(), policy.skip_from_backend), ("kube-system/dns", false));
        let RedirectFrontend::Address { ip, ports } = &policy.frontend else { panic!() };
        assert_eq!((ip.to_string().as_str(), ports.len()), ("169.254.20.10", 2));
        // Names are told apart whatever their case.
        assert_eq!(policy.backend_port(&ports[0], 2), Some(1053));
        assert_eq!(policy.backend_port(&ports[1], 2), Some(1054));

        let of_service = "apiVersion: cilium.io/v2\nkind: CiliumLocalRedirectPolicy\n\
            metadata: {name: p}\nspec:\n  description: x\n  skipRedirectFromBackend: true\n  \
            redirectFrontend: {serviceMatcher: {serviceName: web, namespace: default}}\n  \
            redirectBackend: {localEndpointSelector: {}, toPorts: [{port: 80, protocol: tcp}]}\n";
        let parsed = parse("a", of_service);
        assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
        let policy = &parsed.objects.redirects[0];
        let service = RedirectFrontend::Service { name: "web".to_owned(), ports: Vec::new() };
        assert_eq!((&policy.frontend, policy.skip_from_backend), (&service, true));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (was, is, what) in [
            ("cilium.io/v2", "cilium.io/v3", "cilium.io/v3"),
            ("169.254.20.10", "169.254.20", "not an IP address"),
            ("169.254.20.10", "127.0.0.1", "cannot be redirected"),
            ("protocol: UDP, name: dns}", "protocol: SCTP, name: dns}", "neither TCP nor UDP"),
            ("port: '53'", "port: '0'", "within 1 and 65535"),
            ("port: '53'", "port: '65536'", "within 1 and 65535"),
            ("name: dns}", "name: ''}", "needs a name"),
            ("name: dns}", "name: dns-tcp}", "already"),
            ("name: DNS}", "name: other}", "none is for the frontend's UDP port 53 \"dns\""),
            ("1053', protocol: UDP", "1053', protocol: TCP", "none is for"),
            ("'53', protocol: TCP", "'53', protocol: UDP", "twice"),
            (
                "matchLabels: {k8s-app: dns}",
                "matchLabels: {k8s-app: 'a b'}",
                "localEndpointSelector",
            ),
            ("localEndpointSelector", "localEndpointSelektor", "localEndpointSelektor"),
            (
                "    addressMatcher:\n      ip",
                "    serviceMatcher: {serviceName: a, namespace: kube-system}\n    addressMatcher:\n      ip",
                "exactly one",
            ),
        ] {
            assert!(DNS.contains(was), "{was}");
            let parsed = parse("a", &DNS.replacen(was, is, 1));
            let [problem] = parsed.problems.as_slice() else {
                panic!("{is}: {:?}", parsed.problems)
            };
            assert!(problem.message.contains(what), "{is}: {problem}");
            assert!(parsed.objects.redirects.is_empty());
        }
        let many: Vec<String> =
            (1..=101).map(|n| format!("{{port: '{n}', protocol: TCP, name: p{n}}}")).collect();
        let list =
            "[{port: '53', protocol: UDP, name: dns}, {port: '53', protocol: TCP, name: dns-tcp}]";
        for (list_of, what) in [(many.join(","), "101 ports"), (String::new(), "0 ports")] {
            let parsed = parse("a", &DNS.replacen(list, &format!("[{list_of}]"), 1));
            assert!(parsed.problems[0].message.contains(what), "{:?}", parsed.problems);
        }
        let elsewhere = DNS.replace(
            "addressMatcher:\n      ip: 169.254.20.10",
            "serviceMatcher:\n      serviceName: a\n      namespace: b",
        );
        let parsed = parse("a", &elsewhere);
        assert!(
            parsed.problems[0].message.contains("not the policy's own"),
            "{:?}",
            parsed.problems
        );
        // The line within the document.
        let parsed = parse("a", &format!("# x\n---\n{}", DNS.replace("ip: 169", "ipp: 169")));
        assert_eq!(
            (parsed.problems[0].document, parsed.problems[0].line),
            (1, 9),
            "{:?}",
            parsed.problems
        );
    }
}
