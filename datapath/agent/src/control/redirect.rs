//! Redirection to pods of the client's own node.

use std::net::IpAddr;

use datapath_policy::{NamedPort, Selector};

/// A `cilium.io/v2` CiliumLocalRedirectPolicy: what is sent to its frontend goes to pods of the client's node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalRedirect {
    /// Its namespace, and that of the pods.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What is redirected.
    pub frontend: RedirectFrontend,
    /// Selects the pods.
    pub selector: Selector,
    /// Their ports.
    pub ports: Vec<NamedPort>,
    /// What the pods themselves send to the frontend is not to be redirected.
    pub skip_from_backend: bool,
}

/// What is redirected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedirectFrontend {
    /// An address that is no service's.
    Address {
        /// The address.
        ip: IpAddr,
        /// Its ports; names may be empty.
        ports: Vec<NamedPort>,
    },
    /// A ClusterIP service of the same namespace.
    Service {
        /// Its name.
        name: String,
        /// Its ports; none: all of them.
        ports: Vec<NamedPort>,
    },
}

// === impl LocalRedirect ===

impl LocalRedirect {
    /// `namespace/name`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The pods' port for one of `of` ports of the frontend: the only one for the only one, else that of the same name.
    pub(crate) fn backend_port(&self, port: &NamedPort, of: usize) -> Option<u16> {
        let named = |known: &&NamedPort| {
            !port.name.is_empty() && known.name.eq_ignore_ascii_case(&port.name)
        };
        let found = match self.ports.as_slice() {
            [only] if of == 1 => Some(only),
            all => all.iter().find(named),
        };
        found.filter(|known| known.protocol == port.protocol).map(|known| known.port)
    }
}
