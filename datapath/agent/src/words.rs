//! Errors, for a log's line and a status.

/// An error with all its causes in one line.
pub(crate) fn words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn causes_follow_each_other() {
        let error = datapath_loader::Error::System {
            what: "opening x".to_owned(),
            source: io::Error::other("no"),
        };
        assert_eq!(words(&error), "opening x: no");
        assert_eq!(words(&io::Error::other("alone")), "alone");
    }
}
