//! What is missing, and how it is put there.

use super::*;

/// What is missing is put back in the way in which it came.
#[test]
fn what_is_missing_is_installed_as_it_came() {
    let unit = |f: &mut Facts| set(f, "stratavore.slice", "LoadState", "not-found");
    type Change<'a> = &'a dyn Fn(&mut Facts);
    let gone: [(&str, Change<'_>); 5] = [
        ("stratavore.slice", &unit),
        ("bus policy", &|f| f.bus.policies.clear()),
        ("bus policy", &|f| {
            f.bus.policies.clear();
            f.bus.call = Call::Denied("Rejected".to_owned());
        }),
        ("polkit", &|f| f.polkit.as_mut().unwrap().actions.clear()),
        ("polkit rules", &|f| {
            f.polkit.as_mut().unwrap().rules = Some(false)
        }),
    ];
    for (check, gone) in gone {
        for (installed, way, others) in [
            (Installed::Make, "(make install)", ["package", "nixos"]),
            (
                Installed::Debian,
                "package stratavore again: apt install --reinstall",
                ["make install", "nixos"],
            ),
            (
                Installed::NixOs,
                "services.stratavore.enable = true and run nixos-rebuild switch",
                ["make install", "package stratavore"],
            ),
        ] {
            let found = broken(|f| {
                gone(f);
                f.installed = installed;
            });
            let line = found.iter().find(|f| f.check == check).unwrap().line();
            assert!(line.contains(way), "{line}");
            for other in others {
                assert!(!line.contains(other), "{line}");
            }
            assert!(
                installed != Installed::NixOs || !line.contains("/usr/share"),
                "{line}"
            );
        }
    }
    let mine = broken(|f| {
        unit(f);
        f.user = true;
    });
    let line = mine.iter().find(|f| f.check == "stratavore.slice");
    assert!(line.unwrap().line().contains("(make install-user)"));
}
