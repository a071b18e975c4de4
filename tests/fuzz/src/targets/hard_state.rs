//! What `node.db` keeps of votes and record.

use tanist_replication::HardState;

pub(crate) fn run(input: &[u8]) {
    let Ok(state) = minicbor::decode::<HardState>(input) else { return };
    match minicbor::to_vec(&state) {
        Ok(again) => match minicbor::decode::<HardState>(&again) {
            Ok(decoded) => assert_eq!(decoded, state),
            Err(error) => panic!("{state:?} doesn't decode again: {error}"),
        },
        Err(error) => panic!("{state:?} doesn't encode: {error}"),
    }
}
