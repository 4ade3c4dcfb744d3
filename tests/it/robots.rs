//! Robots that take so much and no more: budget, digests, cool-down, pause, targets and pools.

mod budget;
mod cli;
mod digest;
mod outcomes;
mod rest;
mod targets;

use postbell::sandbox::Message;

use crate::harness::stage::Stage;
use crate::harness::{SOON, eventually};

/// The numbers that messages name, in the order in which the group reads them.
fn numbers(messages: &[Message]) -> Vec<i32> {
    let lines = messages.iter().flat_map(|message| message.text.lines());
    lines.filter_map(|line| line.split_once("number ")?.1.split('.').next()?.parse().ok()).collect()
}

/// An operator pauses a robot, as soon as there is one.
async fn pause(stage: &Stage, robot: &str) {
    eventually(SOON, "the robot to be known", async || {
        let pause = "select notification_robot_pause($1, 'maintenance', 'an operator')";
        let said: String = stage.world.client().query_one(pause, &[&robot]).await.unwrap().get(0);
        said.starts_with("paused").then_some(())
    })
    .await;
}

/// An operator resumes a robot.
async fn resume(stage: &Stage, robot: &str) {
    let resume = "select notification_robot_resume($1)";
    let said: String = stage.world.client().query_one(resume, &[&robot]).await.unwrap().get(0);
    assert!(said.starts_with("resumed"), "{said}");
}
