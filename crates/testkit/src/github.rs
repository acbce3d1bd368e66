//! A stateful fake GitHub.
