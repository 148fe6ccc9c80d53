//! Tests in a process of their own.

use std::{env, process::Command};

/// Set in the child process to the name of the test that it runs.
const CHILD: &str = "FERRUM_TEST_ALONE";

/// Runs `body` in a child process that runs nothing but the calling test, `module::name`. For what is measured of a
/// process as a whole, such as resident memory.
pub fn alone(test: &str, body: impl FnOnce()) {
    if env::var_os(CHILD).is_some_and(|name| name == test) {
        return body();
    }
    let program = env::current_exe().expect("the test program");
    let output = Command::new(program).args(["--exact", test, "--nocapture"]).env(CHILD, test).output();
    let output = output.expect("the test program starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    println!("{said}");
}
