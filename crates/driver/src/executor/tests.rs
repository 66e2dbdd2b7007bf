use std::cell::RefCell;
use std::future::{pending, poll_fn};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::*;
use crate::{Executor, sleep, timeout};

/// Longer than anything here takes, so that a wait that is never over fails the test.
const PATIENCE: Duration = Duration::from_secs(20);

fn run<F: Future>(main: F) -> F::Output {
    let mut executor = Executor::new().unwrap();
    executor.block_on(timeout(PATIENCE, main)).unwrap()
}

#[test]
fn a_task_gives_its_owner_its_result() {
    let sum = run(async {
        let one = spawn("one", async { 1 });
        let two = spawn("two", async {
            yield_now().await;
            2
        });
        one.await.unwrap() + two.await.unwrap()
    });
    assert_eq!(sum, 3);
}

#[test]
fn a_task_that_panics_ends_alone() {
    let mut executor = Executor::new().unwrap();
    executor.block_on(async {
        let bad = spawn("bad", async { panic!("on purpose") });
        let good = spawn("good", async {
            yield_now().await;
            1
        });
        assert_eq!(bad.await, Err::<(), _>(TaskError::Panicked { name: "bad" }));
        assert_eq!(good.await, Ok(1));
    });
    assert_eq!(executor.panicked(), 1);
}

#[test]
fn a_task_whose_owner_is_gone_is_dropped_and_not_polled() {
    run(async {
        let alive = Rc::new(());
        let held = Rc::clone(&alive);
        let polls = Rc::new(Cell::new(0));
        let counted = Rc::clone(&polls);
        let task = spawn("held", async move {
            let _held = held;
            poll_fn(|_| {
                counted.set(counted.get() + 1);
                Poll::<()>::Pending
            })
            .await;
        });
        yield_now().await;
        assert_eq!(polls.get(), 1);
        drop(task);
        yield_now().await;
        assert_eq!((Rc::strong_count(&alive), polls.get()), (1, 1));
    });
}

#[test]
fn a_detached_task_goes_on() {
    run(async {
        let (sender, receiver) = oneshot::channel();
        spawn("detached", async move {
            yield_now().await;
            sender.send(1).unwrap();
        })
        .detach();
        assert_eq!(receiver.await.unwrap(), 1);
    });
}

#[test]
fn an_executor_that_is_dropped_ends_its_tasks() {
    let alive = Rc::new(());
    let mut executor = Executor::new().unwrap();
    let held = Rc::clone(&alive);
    let inner = Rc::clone(&alive);
    let outer = async move {
        let _held = held;
        let _inner = spawn("inner", async move {
            let _held = inner;
            pending::<()>().await;
        });
        pending::<()>().await;
    };
    let mut outer = Some(outer);
    let task = executor.block_on(poll_fn(|_| {
        Poll::Ready(spawn("outer", outer.take().unwrap()))
    }));
    executor.block_on(yield_now());
    assert_eq!(Rc::strong_count(&alive), 3);
    drop(executor);
    assert_eq!(Rc::strong_count(&alive), 1);
    assert!(task.is_finished());
}

#[test]
fn lower_levels_run_first_whatever_was_ready_first() {
    run(async {
        let order = Rc::new(RefCell::new(Vec::new()));
        let tasks = Tasks::new();
        let note = |what: &'static str| {
            let order = Rc::clone(&order);
            async move { order.borrow_mut().push(what) }
        };
        tasks.spawn_at(Level::SocketWriter, "socket", note("socket"));
        tasks.spawn_at(Level::InnerWriter, "inner", note("inner"));
        let (noted, noted_too) = (note("work of reader"), note("reader"));
        tasks.spawn_at(Level::Reader, "reader", async move {
            noted_too.await;
            spawn("late", noted).detach();
        });
        tasks.spawn_at(Level::Reader, "reader", note("reader"));
        tasks.spawn("work", note("work"));
        tasks.finished().await;
        let expected = [
            "work",
            "reader",
            "work of reader",
            "reader",
            "inner",
            "socket",
        ];
        assert_eq!(*order.borrow(), expected);
    });
}

#[test]
fn tasks_that_wake_each_other_for_ever_starve_neither_writers_nor_timers_nor_threads() {
    run(async {
        let busy = spawn(
            "busy",
            poll_fn(|cx| {
                cx.waker().wake_by_ref();
                Poll::<()>::Pending
            }),
        );
        let writer = spawn_at(Level::SocketWriter, "writer", async {});
        writer.await.unwrap();
        sleep(Duration::from_millis(2)).await;
        let (sender, receiver) = oneshot::channel();
        let other = std::thread::spawn(move || sender.send(()).unwrap());
        receiver.await.unwrap();
        other.join().unwrap();
        drop(busy);
    });
}

#[test]
fn a_waker_may_outlive_its_task_and_its_executor() {
    let kept = Rc::new(RefCell::new(None));
    run(async {
        let keep = Rc::clone(&kept);
        let task = spawn(
            "short",
            poll_fn(move |cx| {
                *keep.borrow_mut() = Some(cx.waker().clone());
                Poll::Ready(())
            }),
        );
        task.await.unwrap();
        kept.borrow().as_ref().unwrap().wake_by_ref();
        yield_now().await;
    });
    kept.borrow().as_ref().unwrap().wake_by_ref();
}

#[test]
fn what_waits_for_another_thread_is_woken_each_time() {
    let (to, from) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let other = {
        let (to, from) = (Arc::clone(&to), Arc::clone(&from));
        std::thread::spawn(move || {
            Executor::new().unwrap().block_on(async {
                for _ in 0..1000 {
                    to.notified().await;
                    from.notify_one();
                }
            });
        })
    };
    run(async {
        for _ in 0..1000 {
            to.notify_one();
            from.notified().await;
        }
    });
    other.join().unwrap();
}

#[test]
fn a_group_counts_its_tasks_and_ends_them_with_its_last_owner() {
    run(async {
        let alive = Rc::new(());
        let tasks = Tasks::new();
        let held = Rc::clone(&alive);
        tasks.spawn("endless", async move {
            let _held = held;
            pending::<()>().await;
        });
        tasks.spawn("short", async {});
        yield_now().await;
        assert_eq!(tasks.len(), 1);
        drop(tasks.clone());
        yield_now().await;
        assert_eq!(tasks.len(), 1);
        drop(tasks);
        yield_now().await;
        assert_eq!(Rc::strong_count(&alive), 1);
    });
}
