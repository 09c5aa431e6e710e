//! The rules of SQL92 filters: a table of cases, and laws that hold for generated expressions.

mod laws;
mod table;
