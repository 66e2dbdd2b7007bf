//! Golden tests: one snapshot a case, as JSON, sorted.

mod bookinfo;
mod destination_rule;
mod fixture;
mod gateway_api;
mod ports;
mod virtual_service;
