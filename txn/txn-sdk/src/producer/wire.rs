//! Who takes the halves and ends of transactions: a client of a broker; in a simulation, somebody who plays one.

#[cfg(not(feature = "simulation"))]
pub(crate) use mq_client::Producer;

#[cfg(feature = "simulation")]
pub(crate) use crate::simulation::Producer;

#[cfg(not(feature = "simulation"))]
pub(crate) fn wire(client: mq_client::Producer) -> Producer {
    client
}

#[cfg(feature = "simulation")]
pub(crate) fn wire(client: mq_client::Producer) -> Producer {
    Producer::Client(client)
}
