//! What is said of the store.

use super::super::super::Level::{Note, Problem};
use super::super::super::facts::*;
use super::says;

#[test]
fn the_store() {
    says(Problem, "store", &["damaged"], |f| {
        f.programs.store = Some(Told::Wrong("It is damaged.".to_owned()))
    });
    says(Note, "store", &["--check-store"], |f| {
        f.programs.store = Some(Told::TooLong)
    });
    let lacks = |check: Option<&str>| {
        let check = check.map(|line| line.split(' ').map(str::to_owned).collect());
        let names = ["store-password", "store-ca"].map(str::to_owned);
        Some(Told::Lacks(names.into(), check))
    };
    let line = "systemd-run --pipe --wait -p LoadCredential=store-ca:/x stratavored --check-store";
    let only = "store-password and store-ca are there only while stratavored runs";
    says(Note, "store", &[only, "Start it, or", line], |f| {
        f.programs.store = lacks(Some(line))
    });
    says(Note, "store", &[only, "systemctl start stratavored"], |f| {
        f.programs.store = lacks(None)
    });
}
