//! The client against real servers in this process, or against any RocketMQ cluster that `MQ_TEST_NAMESRV` names.

mod cluster;
mod consuming;
mod controlled;
mod failures;
mod fake;
mod popping;
mod producing;
mod requests;
mod traces;
mod transactions;
