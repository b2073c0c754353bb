//! Query parameters.

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;

use crate::error::ApiError;
use crate::filter::Filters;
use crate::time::{self, Range};

/// The parameters of a request, in order; names may repeat.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params(Vec<(String, String)>);

// === impl Params ===

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        Query::from_request_parts(parts, state)
            .await
            .map(|Query(pairs)| Self(pairs))
            .map_err(|error| ApiError::bad_request(error.to_string()))
    }
}

impl Params {
    /// The last value of that name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A number within limits, or `default`.
    pub(crate) fn number(
        &self,
        name: &str,
        default: usize,
        limits: std::ops::RangeInclusive<usize>,
    ) -> Result<usize, ApiError> {
        let Some(text) = self.get(name) else { return Ok(default) };
        let number = text.parse().ok().filter(|number| limits.contains(number));
        number.ok_or_else(|| {
            let (low, high) = (limits.start(), limits.end());
            ApiError::bad_request(format!("{name}={text:?}: expected {low} to {high}"))
        })
    }

    /// `true` or `false`, or without a value for `true`.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(other) => {
                Err(ApiError::bad_request(format!("{name}={other:?}: expected true or false")))
            }
        }
    }

    /// A moment, or `None` when it is not given.
    pub(crate) fn moment(&self, name: &str, now: i64) -> Result<Option<i64>, ApiError> {
        Ok(self.get(name).map(|text| time::parse(text, now)).transpose()?)
    }

    /// `since` and `until`; without `since`, `default` before the end.
    pub(crate) fn range(&self, now: i64, default: i64) -> Result<Range, ApiError> {
        let until = self.moment("until", now)?;
        let since = self.moment("since", now)?.unwrap_or(until.unwrap_or(now) - default);
        if until.is_some_and(|until| until <= since) {
            return Err(ApiError::bad_request("until is not after since"));
        }
        Ok(Range { since: Some(since), until })
    }

    /// What is left when the parameters named in `others` are taken away: filters.
    pub(crate) fn filters(&self, others: &[&str]) -> Result<Filters, ApiError> {
        let pairs = self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Ok(Filters::parse(pairs, others)?)
    }
}
