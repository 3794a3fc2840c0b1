//! The server over an embedded store, asked through its own transport and over real connections.

mod bounds;
mod fixture;
mod lists;
mod rights;
mod watches;
mod writes;
