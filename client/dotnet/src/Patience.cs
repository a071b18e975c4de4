using System;
using System.Diagnostics;
using System.Threading;
using System.Threading.Tasks;

namespace Tanist.Client
{
    /// <summary>The only reader of time: monotonic, since an arbitrary start.</summary>
    static class Clock
    {
        internal static TimeSpan Now
        {
            get { return TimeSpan.FromSeconds((double)Stopwatch.GetTimestamp() / Stopwatch.Frequency); }
        }
    }

    /// <summary>Waiting with a limit.</summary>
    static class Patience
    {
        /// <summary>Whether the task ended in time. Throws what it throws; a task left behind may fail unseen.</summary>
        internal static async Task<bool> Within(Task task, TimeSpan limit, CancellationToken cancel)
        {
            using (var stop = CancellationTokenSource.CreateLinkedTokenSource(cancel))
            {
                await Task.WhenAny(task, Task.Delay(limit, stop.Token)).ConfigureAwait(false);
                stop.Cancel();
                // Both may have ended while this computer was busy.
                if (!task.IsCompleted)
                {
                    Leave(task);
                    cancel.ThrowIfCancellationRequested();
                    return false;
                }
            }
            await task.ConfigureAwait(false);
            return true;
        }

        /// <summary>Nobody waits for this task any more; should it fail, nobody needs to know.</summary>
        internal static void Leave(Task task)
        {
            task.ContinueWith(
                left => left.Exception, CancellationToken.None,
                TaskContinuationOptions.OnlyOnFaulted | TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
        }
    }
}
