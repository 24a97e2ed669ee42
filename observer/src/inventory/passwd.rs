//! Names of this machine's users.

use std::{collections::HashMap, fs::File, io::Read as _};

/// The largest file that is read.
const FILE_BYTES: u64 = 4 << 20;

/// Names by user id, the first if there are several; `None` if nobody can say. Users that are not in the file, such
/// as a directory's, have none.
pub(super) fn names() -> Option<HashMap<u32, String>> {
    let mut text = Vec::new();
    let file = File::open("/etc/passwd").ok()?;
    file.take(FILE_BYTES).read_to_end(&mut text).ok()?;
    Some(parse(&String::from_utf8_lossy(&text)))
}

/// passwd(5): `name:password:uid:…`.
fn parse(text: &str) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        let (name, uid) = (fields.next(), fields.nth(1));
        if let (Some(name), Some(Ok(uid))) = (name, uid.map(str::parse)) {
            names.entry(uid).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_counts() {
        let names = parse(
            "root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\n# no user\nbad:x:y\nann:x:1000:1000",
        );
        assert_eq!(names.len(), 2);
        assert_eq!((&names[&0][..], &names[&1000][..]), ("root", "ann"));
    }
}
