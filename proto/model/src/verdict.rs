//! Verdicts, directions, and who reports.

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name that rows and filters use.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The value of that name, in any case.
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.name().eq_ignore_ascii_case(text))
            }
        }
    };
}
pub(crate) use words;

words! {
    /// What became of a connection's packets (names of Hubble's `flow.Verdict`).
    Verdict {
        /// Let through.
        Forwarded = "FORWARDED",
        /// Discarded.
        Dropped = "DROPPED",
        /// Would have been discarded; let through because the policy is only audited.
        Audit = "AUDIT",
        /// Sent to a proxy.
        Redirected = "REDIRECTED",
        /// Could not be judged.
        Error = "ERROR",
    }
}

words! {
    /// Which end of the connection wrote the row.
    Reporter {
        /// The node and interface next to the client.
        Source = "SOURCE",
        /// The node and interface next to the server.
        Destination = "DESTINATION",
        /// The node's own interface that the connection passes.
        Host = "HOST",
        /// An importer.
        External = "EXTERNAL",
    }
}

words! {
    /// Direction of the connection as seen from the endpoint behind the interface.
    Direction {
        /// Towards it.
        Ingress = "INGRESS",
        /// From it.
        Egress = "EGRESS",
    }
}

words! {
    /// Why packets were dropped (names of Hubble's `flow.DropReason`; the part in use).
    DropReason {
        /// A policy.
        PolicyDenied = "POLICY_DENIED",
        /// A rule that denies.
        PolicyDeny = "POLICY_DENY",
        /// The packet could not be parsed.
        InvalidPacket = "INVALID_PACKET_DROPPED",
        /// A connection table was full.
        CtMapInsertionFailed = "CT_MAP_INSERTION_FAILED",
        /// A service has no backend.
        ServiceBackendNotFound = "SERVICE_BACKEND_NOT_FOUND",
        /// The client is not within a service's source ranges.
        DeniedByLbSrcRangeCheck = "DENIED_BY_LB_SRC_RANGE_CHECK",
        /// A service's cluster address, from outside of the cluster.
        IsAClusterIp = "IS_A_CLUSTERIP",
        /// No port, or no room, to translate a connection.
        NoMappingForNatMasquerade = "NO_MAPPING_FOR_NAT_MASQUERADE",
        /// The kernel had no route.
        FibLookupFailed = "FIB_LOOKUP_FAILED",
        /// TTL or hop limit reached zero.
        TtlExceeded = "TTL_EXCEEDED",
        /// Anything else; the kernel's own reason stands beside it.
        Unknown = "DROP_REASON_UNKNOWN",
    }
}
