//! The language sentence by sentence: what may be written and what it means, and which files are read.

mod house;

use casemate_policy::select;
use house::read;

#[test]
fn lines_are_accepted_and_mean_what_they_say() {
    for (text, rule) in [
        ("s * a b allow", "s * a b allow"),
        ("\t s\u{a0}*\u{2003}a\u{1f}b\u{b}allow \r", "s * a b allow"),
        ("#s * a b oops\n \t# more\n\ns * a b deny", "s * a b deny"),
        ("* * * * deny", "* * * * deny"),
        ("A-z._9 + a b ask", "A-z._9 + a b ask"),
        ("s ++a.b_-+ a b ask", "s ++a.b_-+ a b ask"),
        ("s * a b deny notify=yes", "s * a b deny"),
        ("s * a b deny notify=no", "s * a b deny notify=no"),
        (
            "s * a b allow notify=no autostart=yes user=",
            "s * a b allow",
        ),
        (
            "s * a b allow notify=yes autostart=no user=a=b target=c",
            "s * a b allow target=c user=a=b autostart=no notify=yes",
        ),
        (
            "s * a b ask default_target=@dispvm target=uuid:x",
            "s * a b ask target=uuid:x default_target=@dispvm",
        ),
        ("s * a @default ask", "s * a @default ask"),
        ("s * a @default deny", "s * a @default deny"),
        (
            "s * a @default allow target=b",
            "s * a @default allow target=b",
        ),
        (
            "s * a @default allow target=dom0",
            "s * a @default allow target=dom0",
        ),
        (
            "s * @dispvm:a @dispvm:@tag:t deny",
            "s * @dispvm:a @dispvm:@tag:t deny",
        ),
        (
            "s * @dispvm:@tag:t @dispvm:uuid:x deny",
            "s * @dispvm:@tag:t @dispvm:uuid:x deny",
        ),
        ("s * @type:x @tag:y deny", "s * @type:x @tag:y deny"),
        (
            "s * @adminvm uuid:00000000-0000-0000-0000-000000000000 deny",
            "s * dom0 dom0 deny",
        ),
        // Whatever is no word with '@' is a name, even what can be none.
        ("s * anyvm $default deny", "s * anyvm $default deny"),
        ("s * ** uuid: deny", "s * ** uuid: deny"),
        ("s * vm/x a,b deny", "s * vm/x a,b deny"),
        ("s * tést -v deny", "s * tést -v deny"),
        (
            "s * a b allow target=x,user=y",
            "s * a b allow target=x,user=y",
        ),
    ] {
        let policy = read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let rules: Vec<String> = policy.rules().iter().map(ToString::to_string).collect();
        assert_eq!(rules, [rule], "{text}");
        let again = read(rule).expect("what is written can be read");
        assert_eq!(again.rules()[0].to_string(), rule, "{text}");
    }
}

#[test]
fn anything_else_is_an_error() {
    for text in [
        "s",
        "s *",
        "s * a",
        "s * a b",
        "s a b allow",
        "s+x * a b allow",
        "s/ * a b allow",
        "* +x a b allow",
        "* + a b allow",
        "s x a b allow",
        "s +é a b allow",
        "s +x@ a b allow",
        "é * a b allow",
        "s * a b Allow",
        "s * a b permit",
        "s * a b allow,user=x",
        "s * a b allow # why",
        "s * a b allow user",
        "s * a b allow =x",
        "s * a b allow user=a user=b",
        "s * a b allow notify=yes notify=yes",
        "s * a b allow notify=Yes",
        "s * a b allow notify=",
        "s * a b allow autostart=1",
        "s * a b allow default_target=c",
        "s * a b allow Target=c",
        "s * a b allow target=",
        "s * a b ask default_target=",
        "s * a b deny target=c",
        "s * a b deny user=x",
        "s * a b deny autostart=no",
        "s * a b deny default_target=c",
        "s * a @default allow",
        "s * a @default allow user=x",
        "s * a @default allow target=@default",
        // Words in columns that are not theirs.
        "s * @default b deny",
        "s * @dispvm b deny",
        "s * @ b deny",
        "s * @Anyvm b deny",
        "s * @tag: b deny",
        "s * a @type: deny",
        "s * a @tag deny",
        "s * a @dispvm: deny",
        "s * a @dispvm:@tag: deny",
        "s * a @dispvm:@type:x deny",
        "s * a @dispvm:@dispvm deny",
        "s * a @dispvm:@anyvm deny",
        "s * a @adminvm:x deny",
        "s * a b allow target=*",
        "s * a b allow target=@anyvm",
        "s * a b allow target=@tag:t",
        "s * a b allow target=@type:AppVM",
        "s * a b allow target=@dispvm:@tag:t",
        "s * a b ask default_target=@default",
        "s * a b ask default_target=@anyvm",
        // Directives.
        "!",
        "!Include f",
        "! include f",
        "!include",
        "!include a b",
        "!include-dir",
        "!include-dir a b",
        "!include-service s f",
        "!include-service s * f g",
        "!include-service * +x f",
        "!compat-4.0 x",
        "!compat",
    ] {
        assert!(read(text).is_err(), "{text} was accepted");
        let among = format!("s * a b deny\n{text}\ns * a b deny");
        let error = read(&among).expect_err("one error is enough").to_string();
        assert!(error.starts_with("p:2"), "{text}: {error}");
    }
}

#[test]
fn names_of_files_decide_what_is_read_and_in_which_order() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let chosen = |directories: &[&[&str]]| -> Result<Vec<String>, String> {
        let directories: Vec<Vec<String>> = directories.iter().map(|own| names(own)).collect();
        let chosen = select(&directories).map_err(|refused| refused.name)?;
        Ok(chosen
            .into_iter()
            .map(|file| format!("{}/{}", file.directory, file.name))
            .collect())
    };
    type Case<'a> = (&'a [&'a [&'a str]], Result<&'a str, &'a str>);
    let cases: [Case<'_>; 9] = [
        (
            &[&["9-a.policy", "10-b.policy"]],
            Ok("0/10-b.policy 0/9-a.policy"),
        ),
        (
            &[&[
                "a_b.policy",
                "a.b.policy",
                "a-b.policy",
                "a0.policy",
                "ab.policy",
            ]],
            Ok("0/a-b.policy 0/a.b.policy 0/a0.policy 0/a_b.policy 0/ab.policy"),
        ),
        (
            &[&["30-x.policy"], &["30-x.policy", "20-y.policy"]],
            Ok("1/20-y.policy 0/30-x.policy"),
        ),
        (
            &[&[
                ".30-x.policy",
                "README",
                "x.policy~",
                "x.POLICY",
                "Ü.txt",
                "policy",
            ]],
            Ok(""),
        ),
        (&[&["ok.policy"], &["Bad.policy"]], Err("Bad.policy")),
        (&[&["a b.policy"]], Err("a b.policy")),
        (&[&["é.policy"]], Err("é.policy")),
        (&[&["a+b.policy"]], Err("a+b.policy")),
        (&[&[".policy"]], Ok("")),
    ];
    for (directories, expected) in cases {
        let chosen = chosen(directories).map(|chosen| chosen.join(" "));
        assert_eq!(
            chosen,
            expected.map(str::to_owned).map_err(str::to_owned),
            "{directories:?}"
        );
    }
}
