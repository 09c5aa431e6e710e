//! A message is published if and only if your database transaction committed: producer, marker, fence, inbox.
