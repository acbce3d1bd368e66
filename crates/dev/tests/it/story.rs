use nitejar_dev::demo;
use nitejar_dev::test_stack::TestStack;

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_tells_the_whole_story() {
    let stack = TestStack::start().await.unwrap();
    let steps = demo::story(&stack.target()).await.unwrap();
    assert!(steps >= 15);
    stack.stop().await.unwrap();
}
