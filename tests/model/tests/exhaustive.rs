//! Every state of the models, all rules in force. `TANIST_MODEL=large` widens the bounds.

use tanist_model::{check::exhaust, succession::Succession};

#[test]
fn pair_and_witness_keep_every_acknowledged_write() {
    exhaust("pair and witness", Succession::pair_and_witness());
}

#[test]
fn three_data_members_keep_every_acknowledged_write() {
    exhaust("three data members", Succession::three());
}

#[test]
fn diverged_replica_is_brought_in_line() {
    exhaust("diverged", Succession::diverged());
}
