//! The answer to a query, as it comes.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::{FutureExt, Stream, StreamExt};
use model::Completeness;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{QueryError, QueryStats};
use crate::error::{Error, Result};

/// A stream of record batches. Dropping it cancels the query.
#[derive(Debug)]
pub struct QueryStream {
    pub(super) schema: SchemaRef,
    pub(super) completeness: Completeness,
    pub(super) items: mpsc::Receiver<Item>,
    pub(super) task: Task,
    pub(super) started: Instant,
    pub(super) timeout: Duration,
    pub(super) deadline: Pin<Box<tokio::time::Sleep>>,
    pub(super) rows: usize,
    pub(super) truncated: bool,
    pub(super) ended: Option<Duration>,
}

/// What the task of a query sends.
#[derive(Debug)]
pub(super) enum Item {
    Rows(RecordBatch),
    End { truncated: bool },
    Error(QueryError),
}

/// A task that ends with its handle.
#[derive(Debug)]
pub(super) struct Task(pub(super) JoinHandle<()>);

// === impl Task ===

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

// === impl QueryStream ===

impl QueryStream {
    /// The columns of the answer.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// What is known to be missing from the time that the query covers.
    pub fn completeness(&self) -> &Completeness {
        &self.completeness
    }

    /// What it did so far; final once the stream has ended.
    pub fn stats(&self) -> QueryStats {
        QueryStats {
            rows: self.rows,
            elapsed: self.ended.unwrap_or_else(|| self.started.elapsed()),
            truncated: self.truncated,
        }
    }

    /// All batches at once.
    ///
    /// # Errors
    /// The query's, if it fails while it runs.
    pub async fn collect(mut self) -> Result<(Vec<RecordBatch>, QueryStats)> {
        let mut batches = Vec::new();
        while let Some(batch) = self.next().await {
            batches.push(batch?);
        }
        Ok((batches, self.stats()))
    }

    fn end(&mut self, error: Option<QueryError>) -> Poll<Option<Result<RecordBatch>>> {
        self.ended = Some(self.started.elapsed());
        self.items.close();
        Poll::Ready(error.map(|error| Err(Error::Query(error))))
    }
}

impl Stream for QueryStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended.is_some() {
            return Poll::Ready(None);
        }
        match self.items.poll_recv(cx) {
            Poll::Ready(Some(Item::Rows(batch))) => {
                self.rows += batch.num_rows();
                Poll::Ready(Some(Ok(batch)))
            }
            Poll::Ready(Some(Item::End { truncated })) => {
                self.truncated = truncated;
                self.end(None)
            }
            Poll::Ready(Some(Item::Error(error))) => self.end(Some(error)),
            Poll::Ready(None) => {
                let error = match (&mut self.task.0).now_or_never() {
                    Some(Err(error)) if error.is_panic() => {
                        QueryError::Failed("the query hit a defect of the engine".to_owned())
                    }
                    _ => QueryError::Closed,
                };
                self.end(Some(error))
            }
            // The task keeps the time too, but it may be deep in work that does not yield.
            Poll::Pending => match self.deadline.poll_unpin(cx) {
                Poll::Ready(()) => {
                    let error = QueryError::Timeout(self.timeout);
                    self.end(Some(error))
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }
}
