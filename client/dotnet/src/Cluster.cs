using System;
using System.Collections.Generic;
using System.Linq;

namespace Tanist.Client
{
    /// <summary>How one machine sees the cluster.</summary>
    public sealed class Cluster
    {
        internal Cluster(JsonObject json)
        {
            Member = json.Text("member");
            Role = json.Text("role");
            Term = json.Integer("term");
            Master = json.TextOrNull("master");
            MasterUrls = json.Texts("master_urls");
            SuggestedHost = json.TextOrNull("suggested_host");
            Position = json.Text("position");
            Acknowledged = json.Text("acknowledged");
            Writable = json.Flag("writable");
            Notice = json.TextOrNull("notice");
            SyncSet = json.Texts("sync_set");
            Chain = json.Texts("chain");
            Members = json.Objects("members").Select(member => new ClusterMember(member)).ToList();
            Json = json;
        }

        internal static Cluster TryRead(Answer answer)
        {
            try
            {
                return new Cluster(Client.Json.ReadObject(answer.Body));
            }
            catch (FormatException)
            {
                return null;
            }
        }

        /// <summary>The machine that answers.</summary>
        public string Member { get; private set; }

        /// <summary>What it is now: <c>master</c>, <c>backup</c>, <c>candidate</c>, <c>witness</c> or <c>unknown</c>.</summary>
        public string Role { get; private set; }

        /// <summary>Newest term it knows.</summary>
        public long Term { get; private set; }

        /// <summary>The master it follows or is; <c>null</c> if it knows none.</summary>
        public string Master { get; private set; }

        /// <summary>The master's URLs.</summary>
        public IList<string> MasterUrls { get; private set; }

        /// <summary>Where a client best sends its next request; <c>null</c> if unknown.</summary>
        public string SuggestedHost { get; private set; }

        /// <summary>Position of the answering machine's replica.</summary>
        public string Position { get; private set; }

        /// <summary>Newest acknowledged position it knows.</summary>
        public string Acknowledged { get; private set; }

        /// <summary>Whether writes are taken now, as far as it knows.</summary>
        public bool Writable { get; private set; }

        /// <summary>Why not, when they aren't; or what is wrong although they are. <c>null</c> if nothing is.</summary>
        public string Notice { get; private set; }

        /// <summary>Who holds every acknowledged write, master included.</summary>
        public IList<string> SyncSet { get; private set; }

        /// <summary>The chain of succession, the master first.</summary>
        public IList<string> Chain { get; private set; }

        /// <summary>All members, by rank.</summary>
        public IList<ClusterMember> Members { get; private set; }

        /// <summary>The whole answer.</summary>
        public JsonObject Json { get; private set; }
    }

    /// <summary>One member of a cluster.</summary>
    public sealed class ClusterMember
    {
        internal ClusterMember(JsonObject json)
        {
            Id = json.Text("id");
            Rank = json.Integer("rank");
            Role = json.Text("role");
            Position = json.TextOrNull("position");
            Lag = json.IntegerOrNull("lag");
            Reachable = json.FlagOrNull("reachable");
            InSync = json.FlagOrNull("in_sync");
            Urls = json.Texts("urls");
            Json = json;
        }

        /// <summary>Its name.</summary>
        public string Id { get; private set; }

        /// <summary>1 is nearest to the throne, 0 a witness.</summary>
        public long Rank { get; private set; }

        /// <summary>What it is, as far as known.</summary>
        public string Role { get; private set; }

        /// <summary>Position it last reported; <c>null</c> if unknown.</summary>
        public string Position { get; private set; }

        /// <summary>Transactions behind the master, when known.</summary>
        public long? Lag { get; private set; }

        /// <summary>Whether the answering machine hears it, when known.</summary>
        public bool? Reachable { get; private set; }

        /// <summary>Whether it is in the sync set.</summary>
        public bool? InSync { get; private set; }

        /// <summary>Its URLs for clients.</summary>
        public IList<string> Urls { get; private set; }

        /// <summary>All that was said of it.</summary>
        public JsonObject Json { get; private set; }
    }

    /// <summary>Who reigns after a handover.</summary>
    public sealed class Handover
    {
        internal Handover(JsonObject json)
        {
            Master = json.Text("master");
            Term = json.Integer("term");
        }

        /// <summary>The master.</summary>
        public string Master { get; private set; }

        /// <summary>Its term.</summary>
        public long Term { get; private set; }
    }
}
