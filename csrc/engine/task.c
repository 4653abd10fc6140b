/* Tasks: jobs of the team that a caller starts, waits for, and finishes. */
#include "model.h"

#include <stdlib.h>

pl_status pl_task_start(pl_task *task, pl_job_fn fn, pl_task **out, pl_error *error)
{
    task->job = pl_job_submit(fn, task, task->model->options.threads);
    if (!task->job) {
        task->finish(task, error);
        free(task);
        return pl_fail(error, PL_E_MEMORY, "the engine thread could not be started");
    }
    *out = task;
    return PL_OK;
}

int pl_task_wait(pl_task *task, int ms)
{
    return pl_job_wait(task->job, ms);
}

void pl_task_cancel(pl_task *task)
{
    atomic_store(&task->cancel, 1);
}

void pl_task_masks_ready(pl_task *task)
{
    atomic_store_explicit(&task->masks_ready, 1, memory_order_release);
}

double pl_task_progress(const pl_task *task)
{
    return task->total > 0 ? (double)atomic_load(&((pl_task *)task)->done) / (double)task->total : 1.0;
}

pl_status pl_task_finish(pl_task *task, pl_error *error)
{
    pl_status status = task->finish(task, error);
    pl_job_free(task->job);
    free(task);
    return status;
}
