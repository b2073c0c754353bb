//! Tests of documents and compiled tables, against the naive evaluator and against truth tables.

mod policy {
    mod case;
    mod conformance;
    mod explain;
    mod generate;
    mod hostile;
    mod laws;
    mod oracle;
    mod resume;
    mod scale;
    mod transition;
}
