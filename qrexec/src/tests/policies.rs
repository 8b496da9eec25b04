//! The person and the admin side hear of a policy's faults when they are made, not with the next call.

use super::{guest::soon, host::Host};

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_is_told_when_it_is_made() {
    let mut host = Host::new("test.Copy * @anyvm @anyvm allow\n").await;
    let faults = host.broker.policy_faults().await.unwrap();
    assert_eq!(faults, [] as [String; 0]);

    host.policy("test.Copy * work oops\n");
    let notice = host.notice().await;
    let place = host.rule(1);
    assert!(
        notice.text.contains(&format!("{place}:1: ")),
        "{}",
        notice.text
    );
    assert!(
        notice.text.contains("The last good one holds"),
        "{}",
        notice.text
    );
    let faults = host.broker.policy_faults().await.unwrap();
    assert_eq!(faults.len(), 1);

    // The same fault is not told twice, another one is.
    host.policy("test.Copy * work untrusted oops\n");
    let notice = host.notice().await;
    assert!(
        notice.text.contains(&format!("{place}:28: 'oops'")),
        "{}",
        notice.text
    );
    host.policy("test.Copy * work untrusted allow\n");
    let mended = async {
        while !host.broker.policy_faults().await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    soon("the mended policy", mended).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_could_be_told_is_told_later() {
    let mut host = Host::new("test.Copy * @anyvm @anyvm allow\n").await;
    host.compositor(false);
    host.policy("test.Copy * work untrusted oops\n");
    let known = async {
        while host.broker.policy_faults().await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    soon("the fault", known).await;
    host.compositor(true);
    // Each look tries again until it comes through.
    let told = async {
        loop {
            tokio::select! {
                notice = host.notice() => break notice,
                () = tokio::task::yield_now() => {}
            }
            host.broker.policy_faults().await.unwrap();
        }
    };
    let notice = soon("the notice", told).await;
    assert!(notice.text.contains("'oops'"), "{}", notice.text);
}
