using System;
using System.Collections.Generic;
using System.Globalization;
using System.Linq;
using System.Net.Http;
using System.Threading;
using System.Threading.Tasks;

namespace Tanist.Client
{
    /// <summary>How far a command is at a node.</summary>
    public enum OutcomeStatus
    {
        /// <summary>Not done yet.</summary>
        Pending,
        /// <summary>Done.</summary>
        Done,
        /// <summary>It can't be done.</summary>
        Failed,
    }

    /// <summary>A command to nodes.</summary>
    public sealed class Command : Recorded
    {
        internal Command(JsonObject json) : base(json, "sent_at", "sent_by")
        {
            Id = json.Integer("id");
            Name = json.Text("name");
            Arguments = json["arguments"];
            Nodes = json.Texts("nodes");
            Outcomes = json.Objects("outcomes").Select(outcome => new Outcome(outcome)).ToList();
        }

        /// <summary>Its number.</summary>
        public long Id { get; private set; }

        /// <summary>What to do.</summary>
        public string Name { get; private set; }

        /// <summary>With what, as in <see cref="JsonObject"/>.</summary>
        public object Arguments { get; private set; }

        /// <summary>To whom.</summary>
        public IList<string> Nodes { get; private set; }

        /// <summary>What became of it at each node.</summary>
        public IList<Outcome> Outcomes { get; private set; }
    }

    /// <summary>What became of a command at one node.</summary>
    public sealed class Outcome
    {
        internal Outcome(JsonObject json)
        {
            Node = json.Text("node");
            OutcomeStatus status;
            if (!Enum.TryParse(json.Text("status"), true, out status))
                throw new FormatException("status: found " + json.Text("status") + ", expected pending, done or failed");
            Status = status;
            Detail = json["detail"];
            ChangedAt = json.TextOrNull("changed_at");
        }

        /// <summary>The node.</summary>
        public string Node { get; private set; }

        /// <summary>How far it is.</summary>
        public OutcomeStatus Status { get; private set; }

        /// <summary>What the node says about it.</summary>
        public object Detail { get; private set; }

        /// <summary>When it said so; <c>null</c> when it hasn't been heard of.</summary>
        public string ChangedAt { get; private set; }
    }

    public sealed partial class TanistClient
    {
        /// <summary>Sends a command to nodes: recorded before anybody acts.</summary>
        /// <param name="name">What to do.</param>
        /// <param name="nodes">To whom.</param>
        /// <param name="arguments">What JSON can say.</param>
        /// <param name="write">Key, deadline, conditions.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Task<Command> SendCommandAsync(
            string name, IEnumerable<string> nodes, object arguments = null, WriteOptions write = null,
            CancellationToken cancel = default(CancellationToken))
        {
            var body = new JsonObject { { "name", name }, { "nodes", nodes.ToList() } };
            if (arguments != null) body["arguments"] = arguments;
            return MakeRecorded(Write(HttpMethod.Post, "/v1/commands", body, write), json => new Command(json), cancel);
        }

        /// <summary>As <see cref="SendCommandAsync"/>, blocking.</summary>
        /// <param name="name">What to do.</param>
        /// <param name="nodes">To whom.</param>
        /// <param name="arguments">What JSON can say.</param>
        /// <param name="write">Key, deadline, conditions.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Command SendCommand(
            string name, IEnumerable<string> nodes, object arguments = null, WriteOptions write = null,
            CancellationToken cancel = default(CancellationToken))
        {
            return Wait(SendCommandAsync(name, nodes, arguments, write, cancel));
        }

        /// <summary>A command with its outcomes; <c>null</c> if there is none.</summary>
        /// <param name="id">Its number.</param>
        /// <param name="read">How current it must be; strong otherwise.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Task<Command> GetCommandAsync(long id, ReadOptions read = null, CancellationToken cancel = default(CancellationToken))
        {
            return Find(CommandPath(id), read, json => new Command(json), null, cancel);
        }

        /// <summary>As <see cref="GetCommandAsync"/>, blocking.</summary>
        /// <param name="id">Its number.</param>
        /// <param name="read">How current it must be; strong otherwise.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Command GetCommand(long id, ReadOptions read = null, CancellationToken cancel = default(CancellationToken))
        {
            return Wait(GetCommandAsync(id, read, cancel));
        }

        /// <summary>The commands, the newest first.</summary>
        /// <param name="node">Only those to this node.</param>
        /// <param name="status">Only those with this outcome at that node, or at some node.</param>
        /// <param name="before">Before this one: <see cref="Page{T}.Next"/> of the page before.</param>
        /// <param name="read">How current it must be; strong otherwise.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Task<Page<Command>> ListCommandsAsync(
            string node = null, OutcomeStatus? status = null, string before = null, ReadOptions read = null,
            CancellationToken cancel = default(CancellationToken))
        {
            var wanted = status.HasValue ? Text(status.Value) : null;
            return List("/v1/commands" + Query("node", node, "status", wanted, "before", before), read, json => new Command(json), cancel);
        }

        /// <summary>As <see cref="ListCommandsAsync"/>, blocking.</summary>
        /// <param name="node">Only those to this node.</param>
        /// <param name="status">Only those with this outcome at that node, or at some node.</param>
        /// <param name="before">Before this one: <see cref="Page{T}.Next"/> of the page before.</param>
        /// <param name="read">How current it must be; strong otherwise.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Page<Command> ListCommands(
            string node = null, OutcomeStatus? status = null, string before = null, ReadOptions read = null,
            CancellationToken cancel = default(CancellationToken))
        {
            return Wait(ListCommandsAsync(node, status, before, read, cancel));
        }

        /// <summary>Says what became of a command at a node. Done and failed are final.</summary>
        /// <param name="id">Its number.</param>
        /// <param name="node">The node.</param>
        /// <param name="status">How far it is.</param>
        /// <param name="detail">What JSON can say.</param>
        /// <param name="write">Key, deadline, conditions.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Task<Command> SetOutcomeAsync(
            long id, string node, OutcomeStatus status, object detail = null, WriteOptions write = null,
            CancellationToken cancel = default(CancellationToken))
        {
            var body = new JsonObject { { "status", Text(status) } };
            if (detail != null) body["detail"] = detail;
            var call = Write(HttpMethod.Put, CommandPath(id) + "/outcomes/" + Segment(node), body, write);
            return MakeRecorded(call, json => new Command(json), cancel);
        }

        /// <summary>As <see cref="SetOutcomeAsync"/>, blocking.</summary>
        /// <param name="id">Its number.</param>
        /// <param name="node">The node.</param>
        /// <param name="status">How far it is.</param>
        /// <param name="detail">What JSON can say.</param>
        /// <param name="write">Key, deadline, conditions.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Command SetOutcome(
            long id, string node, OutcomeStatus status, object detail = null, WriteOptions write = null,
            CancellationToken cancel = default(CancellationToken))
        {
            return Wait(SetOutcomeAsync(id, node, status, detail, write, cancel));
        }

        static string Text(OutcomeStatus status) { return status.ToString().ToLowerInvariant(); }

        static string CommandPath(long id) { return "/v1/commands/" + id.ToString(CultureInfo.InvariantCulture); }
    }
}
