//! What two gateways must agree on beyond the wire format, sans-IO: time, keys and packets come in as arguments.

pub mod static_session;
