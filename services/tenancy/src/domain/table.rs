//! A table of people to invite, as comma-separated values.

use std::collections::HashSet;

use nitejar_common::error::{Error, Result};
use nitejar_common::permission::Role;

use super::email;

/// The most rows.
const MOST: usize = 500;

/// A row, as far as it can be judged by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its line, from 1.
    pub line: u64,
    /// The address as it stands there, its first 254 characters.
    pub text: String,
    /// The normalized address and the role; or the outcome, and what is wrong.
    pub wish: Result<(String, Role), (&'static str, String)>,
}

/// Reads a table. `role`: of rows that name none.
pub fn read(table: &str, role: Role) -> Result<Vec<Row>> {
    let table = table.strip_prefix('\u{feff}').unwrap_or(table);
    let wrong = |must: String| Error::invalid("/csv", must);
    if let Some(line) = broken_quotes(table) {
        return Err(wrong(format!("must have quotes around whole fields, and each closed: see line {line}")));
    }
    let mut reader =
        csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(table.as_bytes());
    let head = reader.headers().map_err(|_| wrong("must be comma-separated values".into()))?.clone();
    let column = |name: &str| head.iter().position(|h| h.eq_ignore_ascii_case(name));
    let (mail, roles) = (column("email"), column("role"));
    let mail = mail.ok_or_else(|| wrong("must have a first row that names a column email".into()))?;
    if ["email", "role"].iter().any(|name| head.iter().filter(|h| h.eq_ignore_ascii_case(name)).count() > 1) {
        return Err(wrong("must have one column email, and at most one column role".into()));
    }
    let mut seen = HashSet::new();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record =
            record.map_err(|e| wrong(format!("must be comma-separated values in UTF-8: {}", at(&e))))?;
        if rows.len() == MOST {
            return Err(wrong(format!("must have at most {MOST} rows")));
        }
        let line = line_of(table, &record);
        let address = record.get(mail).unwrap_or_default();
        let given = roles.and_then(|i| record.get(i)).unwrap_or_default().to_lowercase();
        let wish = match record.iter().skip(head.len()).any(|field| !field.is_empty()) {
            true => Err(("invalid", "The row has more fields than the first row names.".to_owned())),
            false => judge(address, &given, role),
        };
        let wish = wish.and_then(|(email, role)| match seen.insert(email.clone()) {
            true => Ok((email, role)),
            false => Err(("repeated", "The address stands in an earlier row.".into())),
        });
        let text = address.chars().take(254).collect();
        rows.push(Row { line, text, wish });
    }
    Ok(rows)
}

/// The line where a quoted field begins that does not end as RFC 4180 wants it. The reader takes such a field for one that goes
/// on, over the rows that follow it.
fn broken_quotes(table: &str) -> Option<usize> {
    let mut line = 1;
    let mut chars = table.chars().peekable();
    let mut begins = true;
    while let Some(c) = chars.next() {
        match c {
            '"' if begins => {
                let opened = line;
                loop {
                    match chars.next() {
                        None => return Some(opened),
                        Some('"') if chars.peek() == Some(&'"') => drop(chars.next()),
                        Some('"') => break,
                        Some('\n') => line += 1,
                        Some(_) => {}
                    }
                }
                while matches!(chars.peek(), Some(' ' | '\t')) {
                    chars.next();
                }
                if !matches!(chars.peek(), None | Some(',' | '\r' | '\n')) {
                    return Some(opened);
                }
            }
            '\n' => line += 1,
            // With a line feed behind it, that counts.
            '\r' if chars.peek() != Some(&'\n') => line += 1,
            _ => {}
        }
        begins = matches!(c, ',' | '\r' | '\n');
    }
    None
}

/// The line that a row begins on. The reader's own count is behind where lines end with CR LF, or with CR alone.
fn line_of(table: &str, record: &csv::StringRecord) -> u64 {
    let at = record.position().and_then(|p| usize::try_from(p.byte()).ok()).unwrap_or(0);
    let (before, after) = table.split_at_checked(at).unwrap_or((table, ""));
    let blank = after.len() - after.trim_start_matches(['\r', '\n']).len();
    let passed = &table.as_bytes()[..before.len() + blank];
    let alone = |i: usize| passed[i] == b'\r' && passed.get(i + 1) != Some(&b'\n');
    let ends = (0..passed.len()).filter(|i| passed[*i] == b'\n' || alone(*i)).count();
    1 + ends as u64
}

fn judge(text: &str, given: &str, role: Role) -> Result<(String, Role), (&'static str, String)> {
    let email = email::normalized(text, "/email")
        .map_err(|_| ("invalid", "The address is none, such as ada@example.com.".to_owned()))?;
    let role = match given {
        "" => role,
        name => Role::parse(name)
            .ok_or_else(|| ("invalid", "The role must be owner, admin, member or viewer.".to_owned()))?,
    };
    Ok((email, role))
}

fn at(error: &csv::Error) -> String {
    error.position().map_or_else(|| "see its end".into(), |p| format!("see line {}", p.line()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_judged_by_itself() {
        let table = "\u{feff}Name,Email,Role\r\n\"Ada, L.\",ADA@example.com,Admin\r\n\
                     Eve,not an address,\r\nBob,bob@example.com,\r\nBob,BOB@example.com,viewer\r\nX,x@example.com,boss\r\n\
                     short\r\nDots,a..b@example.com,\r\nEnd,a@example.com.,\r\nUmlaut,\u{e4}@example.com,\r\n";
        let rows = read(table, Role::Member).unwrap();
        let said: Vec<_> =
            rows.iter().map(|r| (r.line, r.wish.clone().map_err(|(outcome, _)| outcome))).collect();
        assert_eq!(
            said,
            [
                (2, Ok(("ada@example.com".into(), Role::Admin))),
                (3, Err("invalid")),
                (4, Ok(("bob@example.com".into(), Role::Member))),
                (5, Err("repeated")),
                (6, Err("invalid")),
                (7, Err("invalid")),
                (8, Err("invalid")),
                (9, Err("invalid")),
                (10, Err("invalid")),
            ]
        );
        let old = read("email\ra@b.cd\rb@b.cd\r", Role::Member).unwrap();
        assert_eq!(old.iter().map(|r| r.line).collect::<Vec<_>>(), [2, 3]);
        // One that is too long is none, whatever its beginning would be.
        let host = [60, 60, 60, 7].map(|n| "d".repeat(n)).join(".");
        let begins = format!("{}@{host}.co", "v".repeat(60));
        assert_eq!(begins.len(), 254);
        assert!(judge(&begins, "", Role::Member).is_ok());
        let rows = read(&format!("email\n{begins}mrp.example.net\n"), Role::Member).unwrap();
        assert_eq!((&rows[0].text, rows[0].wish.is_err()), (&begins, true), "{rows:?}");
        // Nobody is invited whose address stands nowhere, or in fields that are not told apart.
        let rows =
            read("email,role\nq@example.com,viewer,admin\n\"a\"\"b@c.de\",\nz@example.com\n", Role::Member)
                .unwrap();
        let good: Vec<_> = rows.iter().map(|r| r.wish.is_ok()).collect();
        assert_eq!(good, [false, false, true], "{rows:?}");
        for broken in [
            "",
            "name\nada@example.com",
            "ada@example.com\n",
            "email\n\"b@example.com\"pany\n",
            "email,role\n\"a@example.com,viewer\nb@example.com,viewer\n",
            "email\n\"unclosed@example.com",
            "email,email\na@example.com,b@example.com",
            "email,role,Role\na@example.com,viewer,admin",
        ] {
            assert!(read(broken, Role::Member).is_err(), "{broken:?}");
        }
        let many = "email\n".to_owned() + &"a@b.cd\n".repeat(501);
        assert!(read(&many, Role::Member).is_err());
        assert!(read("email", Role::Member).unwrap().is_empty());
    }
}
