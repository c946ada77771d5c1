//! The program as a user meets it: help, mistakes, configuration, errors against real servers, JSON.
//!
//! Every run has an empty environment and a home of its own; what differs from run to run is redacted.

#![allow(clippy::unwrap_used, reason = "a test can do nothing better")]

mod config;
mod help;
mod mistakes;
mod recovery_rules;
mod reports;
mod servers;
mod support;
