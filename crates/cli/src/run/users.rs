//! Who a name is in a tree's own /etc/passwd and /etc/group (passwd(5), group(5)).

use super::Identity;
use crate::error::Failure;

/// The identity that `USER[:GROUP]` means, each a name or a number. A number needs no entry.
///
/// # Errors
/// A name that the tree does not know.
pub(super) fn resolve(wanted: &str, passwd: &str, group: &str) -> Result<Identity, Failure> {
    let (user, wanted_group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (wanted, None),
    };
    let entry = passwd.lines().map(fields).find(|fields| {
        let by_id = fields.get(2).is_some_and(|id| *id == user);
        fields.first().is_some_and(|name| *name == user) || by_id
    });
    let number = |text: Option<&&str>| text.and_then(|text| text.parse::<u32>().ok());
    let (uid, own_group, name, home) = match &entry {
        Some(fields) => {
            let uid = number(fields.get(2)).ok_or_else(|| unknown("user", user, "/etc/passwd"))?;
            (uid, number(fields.get(3)).unwrap_or(0), fields.first().copied(), fields.get(5).copied())
        }
        None => {
            let uid = if user.is_empty() { Some(0) } else { user.parse().ok() };
            (uid.ok_or_else(|| unknown("user", user, "/etc/passwd"))?, 0, None, None)
        }
    };
    let home = home.filter(|home| !home.is_empty()).map(str::to_owned);
    if let Some(wanted) = wanted_group {
        let known =
            group.lines().map(fields).find(|fields| fields.first().is_some_and(|name| *name == wanted));
        let gid = known.and_then(|fields| number(fields.get(2))).or_else(|| wanted.parse().ok());
        let gid = gid.ok_or_else(|| unknown("group", wanted, "/etc/group"))?;
        return Ok(Identity { uid, gid, groups: vec![gid], home });
    }
    let member = |fields: &Vec<&str>| {
        let members = fields.get(3).copied().unwrap_or_default();
        name.is_some_and(|name| members.split(',').any(|member| member == name))
    };
    let mut groups: Vec<u32> =
        group.lines().map(fields).filter(member).filter_map(|fields| number(fields.get(2))).collect();
    groups.insert(0, own_group);
    groups.dedup();
    Ok(Identity { uid, gid: own_group, groups, home })
}

fn fields(line: &str) -> Vec<&str> {
    line.split(':').collect()
}

fn unknown(what: &str, name: &str, file: &str) -> Failure {
    Failure::new(
        format_args!("no {what} {name:?} in the workspace"),
        format_args!("name one of its {file}, or a number"),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001::/home/ann:/bin/sh\nbad:x:x:\n";
    const GROUP: &str = "root:x:0:\nann:x:1001:\naudio:x:29:bob,ann\nvideo:x:44:ann\n";

    #[test]
    fn users_are_names_or_numbers() {
        let ann =
            Identity { uid: 1000, gid: 1001, groups: vec![1001, 29, 44], home: Some("/home/ann".into()) };
        for (wanted, expected) in [
            ("ann", ann.clone()),
            ("1000", ann.clone()),
            ("ann:audio", Identity { gid: 29, groups: vec![29], ..ann.clone() }),
            ("ann:7", Identity { gid: 7, groups: vec![7], ..ann }),
            ("5000", Identity { uid: 5000, gid: 0, groups: vec![0], home: None }),
            ("", Identity { groups: vec![0], ..Identity::default() }),
            ("root", Identity { groups: vec![0], home: Some("/root".into()), ..Identity::default() }),
        ] {
            assert_eq!(resolve(wanted, PASSWD, GROUP).unwrap(), expected, "{wanted}");
        }
        for wanted in ["bob", "bad", "ann:none", "ann:"] {
            assert!(resolve(wanted, PASSWD, GROUP).is_err(), "{wanted}");
        }
    }
}
