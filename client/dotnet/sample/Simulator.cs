using System;
using System.Threading;
using System.Threading.Tasks;
using Tanist.Client;

namespace WallController
{
    /// <summary>
    /// Plays the nodes: what each should do with its own client is done here for all. A node takes a while to reach its
    /// desired state, says so, and answers commands.
    /// </summary>
    static class Simulator
    {
        internal static void Start(ClientOptions options, CancellationToken cancel)
        {
            Task.Run(() => Run(options, cancel), cancel);
        }

        static async Task Run(ClientOptions options, CancellationToken cancel)
        {
            var random = new Random();
            using (var client = new TanistClient(options))
            {
                while (true)
                {
                    await Task.Delay(random.Next(300, 900), cancel);
                    try
                    {
                        foreach (var node in await Wall.Read(client, cancel))
                        {
                            if (node.InStep != false) continue;
                            // As it is by now, with the number that the report answers.
                            var desired = await client.GetDesiredAsync(node.Name, null, cancel);
                            await client.ReportAsync(node.Name, desired.State, desired.Revision, null, null, cancel);
                            await Task.Delay(random.Next(100, 400), cancel);
                        }
                        foreach (var command in (await client.ListCommandsAsync(null, OutcomeStatus.Pending, null, null, cancel)).Entries)
                            foreach (var outcome in command.Outcomes)
                                if (outcome.Status == OutcomeStatus.Pending)
                                    await client.SetOutcomeAsync(command.Id, outcome.Node, OutcomeStatus.Done, "simulated", null, cancel);
                    }
                    catch (TanistException)
                    {
                        // Longer than the deadline without a master; the next round goes on.
                    }
                }
            }
        }
    }
}
