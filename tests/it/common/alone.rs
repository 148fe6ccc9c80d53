//! Tests that run in a child process.

use std::{env, process::Command};

/// The environment variable that names the child process's test.
const CHILD: &str = "FERRUM_TEST_ALONE";

/// Runs `body` in a child process that runs only the calling test, `module::name`. Use it for measurements of a whole
/// process, such as resident memory.
pub fn alone(test: &str, body: impl FnOnce()) {
    if env::var_os(CHILD).is_some_and(|name| name == test) {
        return body();
    }
    let program = env::current_exe().expect("the test program");
    let output =
        Command::new(program).args(["--exact", test, "--include-ignored", "--nocapture"]).env(CHILD, test).output();
    let output = output.expect("the test program starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    println!("{text}");
}
